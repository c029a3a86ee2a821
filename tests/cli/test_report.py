from __future__ import annotations

import shutil
from pathlib import Path

import pytest

TOYS = Path(__file__).parents[1] / "search" / "toys.py"

SEARCH = """\
surgery: 1
models: {base: ./base, code: ./code}
steps: {mix: {op: merge.linear, models: {base: 1, code: {weight: ${search: [0, 1]}}}}}
search:
  sampler: evolve.random
  evaluator: {name: toy.target, target: 0.05}
  held_out: {target: 0.06}
  trials: 3
  to: ./found
output: {model: mix, to: ./out}
"""


@pytest.fixture
def out(surgery, work):
    assert surgery("run", "mix.yaml").exit_code == 0
    return work / "out"


def test_a_page_is_written_beside_the_weights(surgery, out):
    result = surgery("report", "out")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "wrote out/report.html\n", "")
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert surgery("report", "out").exit_code == 0  # it is made anew
    assert surgery("verify", "out").exit_code == 0


def test_it_can_be_written_elsewhere(surgery, out, work):
    assert surgery("report", "out", "--out", "page.html").stdout == "wrote page.html\n"
    result = surgery("report", "out", "--out", "page.html")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: page.html: exists; choose another name or pass --force\n",
    )
    assert surgery("report", "out", "--out", "page.html", "--force").exit_code == 0
    assert not (out / "report.html").exists()


def test_models_that_moved_can_be_given(surgery, out, work):
    (work / "base").rename(work / "moved")
    surgery("report", "out")
    assert "have not changed" not in (out / "report.html").read_text()
    assert surgery("report", "out", "--models", "base=moved").exit_code == 0
    assert "0 of 21 tensors have not changed" in (out / "report.html").read_text()


def test_what_is_no_output_is_2(surgery, work):
    result = surgery("report", "base")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: base: has no surgery.json")


def test_a_name_without_a_path_is_a_usage_error(surgery, out):
    result = surgery("report", "out", "--models", "base")
    assert result.exit_code == 2
    assert (
        "`base` is not NAME=PATH; write the model's name in the recipe and where it is now" in result.stderr
    )


def test_an_adapter_with_whole_tensors_beside_its_factors_is_shown_as_it_is_stored(surgery, work):
    (work / "lora.yaml").write_text(
        "surgery: 1\n"
        "models: {base: ./base, code: ./code}\n"
        "steps: {lora: {op: adapter.extract, base: base, model: code, rank: 2, save: rest}}\n"
        "output: {model: lora, to: ./lora}\n"
    )
    assert surgery("run", "lora.yaml").exit_code == 0
    assert surgery("report", "lora").exit_code == 0
    page = (work / "lora" / "report.html").read_text()
    assert "Noted by ops" in page


def test_a_search_has_a_page_and_so_has_its_winner(surgery, work):
    shutil.copy(TOYS, work / "toys.py")
    (work / "holes.yaml").write_text(SEARCH)
    assert surgery("search", "holes.yaml", "--plugin", "toys.py").exit_code == 0
    made = (work / "found" / "report.html").read_text()
    (work / "found" / "report.html").unlink()
    assert surgery("report", "found").stdout == "wrote found/report.html\n"
    assert (work / "found" / "report.html").read_text() == made
    assert surgery("run", "found/winner.yaml").exit_code == 0
    assert surgery("report", "out").exit_code == 0
    page = (work / "out" / "report.html").read_text()
    assert "<h2>Search</h2>" in page
    assert "best so far" in page
    assert surgery("reproduce", "out").exit_code == 0
