from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TOYS = Path(__file__).parents[1] / "search" / "toys.py"

RECIPE = """\
surgery: 1
models: {base: ./base, code: ./code, math: ./math}
steps:
  merged:
    op: merge.task_arithmetic
    base: base
    models:
      code: {weight: ${search: [0, 1]}}
      math: {weight: ${search: [0, 1]}}
search:
  sampler: evolve.random
  evaluator: {name: toy.target, target: 0.05}
  held_out: {target: 0.06}
  trials: 4
  to: ./found
output: {model: merged, to: ./out}
"""


@pytest.fixture
def holes(work):
    (work / "holes.yaml").write_text(RECIPE)
    shutil.copy(TOYS, work / "toys.py")
    return ["search", "holes.yaml", "--plugin", "toys.py"]


def events(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_search_prints_scores_and_says_where_everything_is(surgery, holes, work):
    result = surgery(*holes)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["candidate", "score", "held", "out"]
    assert [line.split("  ")[0] for line in lines[2:7]] == [
        "parent base",
        "parent code",
        "parent math",
        "average",
        "centre",
    ]
    assert " won after 9 candidates: " in lines[7]
    assert lines[8] == "found/winner.yaml is its recipe, found/report.html tells the search"
    assert sorted(path.name for path in (work / "found").iterdir()) == [
        "journal.jsonl",
        "report.html",
        "result.json",
        "winner.yaml",
    ]
    assert surgery("run", "found/winner.yaml").exit_code == 0
    assert (work / "out" / "model.safetensors").is_file()


def test_out_and_trials_go_before_the_recipes(surgery, holes, work):
    assert surgery(*holes, "--out", "other", "--trials", "1").exit_code == 0
    assert len((work / "other" / "journal.jsonl").read_text().splitlines()) == 1 + 5 + 1
    assert not (work / "found").exists()


def test_json_tells_every_candidate_then_the_result(surgery, holes):
    *candidates, finished = events(surgery(*holes, "--json").stdout)
    assert {event["event"] for event in candidates} == {"candidate"}
    assert [event["number"] for event in candidates] == list(range(9))
    assert finished["event"] == "finished"
    assert (finished["folder"], finished["trials"], finished["failures"]) == ("found", 4, 0)
    assert finished["genes"] == ["steps.merged.models.code.weight", "steps.merged.models.math.weight"]


def test_what_is_wrong_is_told_with_exit_code_2_and_to_machines_too(surgery, holes, work):
    (work / "holes.yaml").write_text(
        RECIPE.replace("evolve.random", "evolve.ransom").replace("[0, 1]", "[1, 1]")
    )
    result = surgery(*holes, "--json")
    assert result.exit_code == 2
    (failed,) = events(result.stdout)
    assert failed["event"] == "failed"
    assert failed["findings"][0] == {
        "where": "holes.yaml:8:32",
        "path": "steps.merged.models.code.weight.search",
        "what": "the range must begin below its end, got [1, 1]",
    }


def test_a_search_without_held_out_data_warns(surgery, holes, work):
    (work / "holes.yaml").write_text(RECIPE.replace("  held_out: {target: 0.06}\n", ""))
    assert surgery(*holes).stderr == (
        "warning: holes.yaml: search: no `held_out`; the winner's score is the one that the search picked it by\n"
    )


def test_a_second_search_needs_resume(surgery, holes):
    surgery(*holes)
    refused = surgery(*holes)
    assert (refused.exit_code, refused.stderr) == (
        2,
        "error: found: holds a search; pass --resume to go on with it, or choose another folder\n",
    )
    assert surgery(*holes, "--resume").exit_code == 0


def test_code_runs_only_if_it_is_trusted(surgery, holes, work):
    (work / "own.py").write_text("def score(tensors):\n    return float(len(tensors))\n")
    own = "{name: eval.python, callable: own.py:score, gets: tensors}"
    text = RECIPE.replace("{name: toy.target, target: 0.05}", own).replace("  held_out: {target: 0.06}\n", "")
    (work / "holes.yaml").write_text(text)
    assert surgery(*holes).exit_code == 2
    assert surgery(*holes, "--trust").exit_code == 0


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(surgery, holes, work):
    (work / "control").write_text("3 interrupt")
    (work / "holes.yaml").write_text(RECIPE.replace("target: 0.05", "target: 0.05, control: control"))
    stopped = surgery(*holes)
    assert stopped.exit_code == 130
    assert stopped.stderr == "interrupted: 3 candidates kept; run the same command with --resume to go on\n"
    (work / "control").write_text("99 interrupt")
    assert surgery(*holes, "--resume").exit_code == 0


@pytest.mark.slow
def test_a_killed_search_resumes_to_the_uninterrupted_journal(surgery, holes, work):
    (work / "holes.yaml").write_text(RECIPE.replace("target: 0.05", "target: 0.05, control: control"))
    (work / "control").write_text("6 kill")
    words = [sys.executable, "-m", "surgery", *holes]
    killed = subprocess.run(words, cwd=work, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    (work / "control").write_text("99 kill")
    assert surgery(*holes, "--resume").exit_code == 0
    resumed = lasting(work / "found")
    (work / "control.log").unlink()
    assert surgery(*holes, "--out", "whole").exit_code == 0
    assert resumed == lasting(work / "whole")


def lasting(folder: Path) -> list[dict]:
    """A journal without what differs from run to run."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("wall", "cost", "loaded")} for line in lines]
