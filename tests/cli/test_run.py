from __future__ import annotations

import json
import signal
import subprocess
import sys
from itertools import pairwise

import pytest
from safetensors.torch import load_file

SLOW = '''\
"""A plugin in ten lines."""

import time

from surgery import op


@op("own.half", models=1)
def half(x, p):
    """Halve a model, in no hurry."""
    time.sleep(0.02)
    return x.models[0] * 0.5
'''

STOPS = SLOW.replace("time.sleep(0.02)", 'if "layers.1." in x.signature.name:\n        raise {error}')

HALVED = """\
surgery: 1
models: {base: ./base}
steps: {half: {op: own.half, model: base}}
output: {model: half, to: ./out}
"""


@pytest.fixture
def own(work):
    """A recipe that needs a plugin file; call it to choose the plugin's code."""

    def write(code: str = SLOW) -> list[str]:
        (work / "own.py").write_text(code)
        (work / "half.yaml").write_text(HALVED)
        return ["run", "half.yaml", "--plugin", "own.py", "--threads", "1"]

    return write


def events(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_writes_the_output_and_says_where(surgery, work):
    result = surgery("run", "mix.yaml")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["output", "folder", "tensors", "size", "files"],
        ["output", "out", "21", "11.2", "KiB", "1"],
    ]
    words = [part.split()[0] for part in lines[2].split(", ")]
    assert words[1:3] == ["read", "wrote"]
    assert ", read 33.5 KiB, wrote 11.2 KiB, " in lines[2]
    assert lines[2].endswith(" on cpu")
    assert len(lines) == 3
    base, code, math, out = (
        load_file(work / name / "model.safetensors")["model.norm.weight"].float()
        for name in ("base", "code", "math", "out")
    )
    assert ((base + 0.5 * (code - base) + 0.25 * (math - base)).bfloat16().float() == out).all()


def test_a_finished_output_is_replaced_only_by_force(surgery, work):
    assert surgery("run", "mix.yaml").exit_code == 0
    refused = surgery("run", "mix.yaml")
    assert (refused.exit_code, refused.stderr) == (
        2,
        "error: mix.yaml:13:7: output.to: out exists and is not empty; choose another folder or pass --force\n",
    )
    assert surgery("run", "mix.yaml", "--force").exit_code == 0


def test_out_memory_threads_and_device_do_not_change_the_bytes(surgery, work):
    surgery("run", "mix.yaml")
    options = ("--out", "other", "--memory", "512MiB", "--threads", "3", "--device", "cpu", "--no-resume")
    assert surgery("run", "mix.yaml", *options).exit_code == 0
    first, second = ((work / name / "model.safetensors").read_bytes() for name in ("out", "other"))
    assert first == second


def test_warnings_come_once_and_before_the_work(surgery, work):
    recipe = work / "mix.yaml"
    recipe.write_text(
        recipe.read_text().replace("output:", "  idle: {op: merge.linear, models: {math: 1}}\noutput:")
    )
    assert surgery("run", "mix.yaml").stderr.splitlines() == [
        "warning: mix.yaml:11:3: steps.idle: no output needs this step, so that it is not computed; "
        "remove it, or write it with `outputs:`"
    ]


def test_json_tells_the_run_line_by_line(surgery, work):
    result = surgery("run", "mix.yaml", "--json")
    assert result.exit_code == 0
    planned, *progress, finished = events(result.stdout)
    assert planned["event"] == "planned"
    assert (planned["bytes_read"], planned["bytes_written"], planned["tensors"]) == (3 * 11424, 11424, 21)
    assert planned["peak"] > 0
    assert planned["outputs"] == [{"name": "output", "folder": "out"}]
    assert all(event["event"] == "progress" and event["total"] == 11424 for event in progress)
    assert finished["event"] == "finished"
    assert finished["outputs"] == [
        {"name": "output", "folder": "out", "tensors": 21, "nbytes": 11424, "shards": 1}
    ]
    assert (finished["bytes_read"], finished["bytes_written"], finished["resumed"]) == (3 * 11424, 11424, 0)
    assert (finished["device"], finished["warnings"]) == ("cpu", [])
    assert finished["seconds"] > 0
    assert finished["peak_rss"] > 0


def test_a_run_is_ordered_once(surgery, work, monkeypatch):
    from surgery.execute import run

    ordered, order = [], run.order
    monkeypatch.setattr(run, "order", lambda plan, options: ordered.append(plan) or order(plan, options))
    assert surgery("run", "mix.yaml", "--json").exit_code == 0
    assert len(ordered) == 1


def test_json_progress_comes_at_most_twice_a_second(surgery, own):
    result = surgery(*own(SLOW.replace("0.02", "0.1")), "--json")
    progress = [event for event in events(result.stdout) if event["event"] == "progress"]
    times = [event["seconds"] for event in progress]
    assert len(times) >= 3
    assert min(b - a for a, b in pairwise(times)) > 0.45
    assert [event["done"] for event in progress] == sorted(event["done"] for event in progress)
    assert progress[-1]["tensor"].endswith(".weight")


def test_json_tells_what_failed_with_all_findings(surgery, work):
    recipe = work / "mix.yaml"
    recipe.write_text(recipe.read_text().replace("./code", "./cod").replace("./math", "./mat"))
    result = surgery("run", "mix.yaml", "--json")
    assert result.exit_code == 2
    (failed,) = events(result.stdout)
    assert failed["event"] == "failed"
    assert failed["error"] == result.stderr.rstrip("\n")
    assert [(found["where"], found["path"]) for found in failed["findings"]] == [
        ("mix.yaml:4:9", "models.code"),
        ("mix.yaml:5:9", "models.math"),
    ]


def test_a_bug_is_1_and_told_to_machines_too(surgery, work, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("gears")

    monkeypatch.setattr("surgery.plan.resolve.resolve", broken)
    result = surgery("run", "mix.yaml", "--json")
    assert result.exit_code == 1
    assert events(result.stdout) == [{"event": "failed", "error": "bug: RuntimeError: gears", "findings": []}]
    assert "RuntimeError: gears\nthis is a bug; please report it" in result.stderr


def test_the_same_command_continues_an_interrupted_run(surgery, own, work):
    words = own(STOPS.format(error="KeyboardInterrupt"))
    stopped = surgery(*words)
    assert stopped.exit_code == 130
    first, second = stopped.stderr.splitlines()
    kept = int(first.split()[1])
    assert 0 < kept < 21
    assert first == f"interrupted: {kept} of 21 tensors are kept in out.partial"
    assert second == "run the same command again to continue"
    assert not (work / "out").exists()

    own(SLOW)
    resumed = surgery(*words)
    assert resumed.exit_code == 0
    assert resumed.stdout.splitlines()[-1] == f"{kept} tensors were kept from an interrupted run"

    whole = surgery(*words, "--out", "whole")
    assert whole.exit_code == 0
    left, right = ((work / name / "model.safetensors").read_bytes() for name in ("out", "whole"))
    assert left == right


def test_an_interruption_before_anything_is_done_says_so(surgery, own):
    stopped = surgery(*own(SLOW.replace("time.sleep(0.02)", "raise KeyboardInterrupt")))
    assert (stopped.exit_code, stopped.stderr) == (
        130,
        "interrupted: nothing is finished yet; run the same command again to begin anew\n",
    )


def test_without_resume_the_advice_is_to_resume(surgery, own):
    stopped = surgery(*own(STOPS.format(error="KeyboardInterrupt")), "--no-resume")
    assert stopped.stderr.splitlines()[-1] == "run the same command without --no-resume to continue"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_130_and_what_is_done_is_kept(own, work, number):
    command = [sys.executable, "-m", "surgery", *own(SLOW.replace("0.02", "0.1")), "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=work
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and event["done"] > 0:
                break
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")
    last = events(rest)[-1]
    assert last["event"] == "interrupted"
    (kept,) = last["kept"]
    assert (kept["folder"], kept["total"]) == ("out.partial", 21)
    assert 0 < kept["tensors"] < 21


def test_what_an_op_raises_names_step_and_tensor(surgery, own):
    result = surgery(*own(STOPS.format(error='ValueError("no")')))
    assert result.exit_code == 2
    assert "half" in result.stderr
    assert "model.layers.1." in result.stderr
    assert "Traceback" not in result.stderr


def test_only_the_first_of_several_processes_prints(surgery, work, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("surgery.cli.run._GRACE", 0.0)
    for words in (["run", "mix.yaml"], ["run", "mix.yaml", "--out", "o", "--json"], ["run", "mix.yaml"]):
        result = surgery(*words)
        assert (result.stdout, result.stderr) == ("", "")
    assert result.exit_code == 2  # out is there now: the first process says so


def test_an_unknown_device_is_a_usage_error(surgery, work):
    assert surgery("run", "mix.yaml", "--device", "abacus").exit_code == 2
    assert surgery("run", "mix.yaml", "--threads", "0").exit_code == 2


def test_work_goes_on_when_nobody_reads_its_progress(own, work):
    command = [sys.executable, "-m", "surgery", *own(SLOW.replace("0.02", "0.05")), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=work) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before a line is read
        errors = process.stderr.read()
    assert (process.returncode, errors.decode()) == (0, "")
    assert (work / "out" / "model.safetensors").is_file()
