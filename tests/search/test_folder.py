"""The folder of a search, read back into the page that the search wrote, or will write."""

from __future__ import annotations

import json
import re

import pytest

import surgery
from surgery import CheckpointError, ResourceError
from surgery.host import Host
from surgery.report.html import report_page
from surgery.search.folder import found_by, is_search, search_page
from surgery.search.page import winner_section
from tests.search.conftest import OPTIONS, recipe_text

HELD_OUT = "{name: toy.target}\n  held_out: {target: 0.4}"


def headings(text: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", text)


@pytest.fixture
def found(lab):
    """The result of a search, in `found`."""
    return lab.search(recipe_text(evaluator=HELD_OUT))


def test_the_page_is_made_again_from_the_folder(lab, found):
    folder = lab.folder / "found"
    assert is_search(folder)
    assert not is_search(lab.folder)
    page = search_page(folder)
    assert page == (folder / "report.html").read_text()
    assert "\nsurgery: 1\nmodels: {zero: ../zero, one: ../one}\n" in page  # the winner's recipe, line by line


def test_a_search_that_is_going_on_has_a_page_of_the_candidates_so_far(lab, found):
    folder = lab.folder / "found"
    (folder / "result.json").unlink()
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:7]) + lines[7][:20])  # four baselines, two trials, half a line
    page = search_page(folder)
    assert headings(page) == ["So far", "Scores", "All candidates"]
    best = min(found.trials[:6], key=lambda trial: trial.score)
    assert f"Not finished: 6 candidates, 2 of them trials, so far; {best.name} is ahead with" in page
    assert "Proposed by evolve.random, scored by toy.target (minimize)." in page
    assert journal.read_text().endswith(lines[7][:20])  # whoever writes it goes on


def test_before_the_first_trial_there_is_no_chart(lab, found):
    folder = lab.folder / "found"
    journal = folder / "journal.jsonl"
    journal.write_text(journal.read_text().partition("\n")[0] + "\n")
    page = search_page(folder)
    assert headings(page) == ["So far", "All candidates"]
    assert "Not finished: 0 candidates, 0 of them trials, so far; none has a score yet." in page


def test_a_search_that_went_on_is_not_told_by_its_last_result(lab, found):
    folder = lab.folder / "found"
    with (folder / "journal.jsonl").open("a") as file:
        record = json.loads((folder / "journal.jsonl").read_text().splitlines()[-1])
        file.write(json.dumps({**record, "number": record["number"] + 1, "name": "trial 7"}) + "\n")
    assert "Not finished: 11 candidates" in search_page(folder)


def test_the_output_of_a_winner_tells_the_search(lab, found):
    surgery.load(lab.folder / "found" / "winner.yaml").run(OPTIONS)
    sections = found_by(lab.folder / "out")
    assert sections == [winner_section(found)]
    page = report_page(lab.folder / "out", Host(), {}, more=sections)
    assert headings(page) == ["Summary", "Over time", "Sizes", "Change", "Search", "Recipe"]
    for part in ("best so far", "parent one", "Held-out scores", "steps.mix.models.one.weight"):
        assert part in sections[0].body
    assert "0 of 2 tensors have not changed" in page  # the models are found from the winner's folder


def test_a_recipe_that_is_not_the_winners_tells_no_search(lab, found):
    winner = lab.folder / "found" / "winner.yaml"
    (lab.folder / "found" / "mine.yaml").write_text(winner.read_text() + "seed: 7\n")
    surgery.load(lab.folder / "found" / "mine.yaml").run(OPTIONS)
    assert found_by(lab.folder / "out") == []


def test_an_output_without_a_search_beside_its_recipe_tells_none(lab):
    surgery.load(lab.write(recipe_text(hole="0.5"))).run(OPTIONS)
    assert found_by(lab.folder / "out") == []


def test_a_damaged_result_is_refused(lab, found):
    file = lab.folder / "found" / "result.json"
    file.write_text('{"trials": 6, "baselines": [1, 2, 3, 4]}')
    with pytest.raises(CheckpointError) as error:
        search_page(lab.folder / "found")
    assert str(error.value) == f"{file}: is not what `surgery search` writes; the file is damaged"


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("", ": is not the journal of a search of this release"),
        ('{"surgery_search": 2, "search": "ab"}\n', ": is not the journal of a search of this release"),
        ('{"surgery_search": 3, "search": "ab"}\n', ":1: is damaged; search into another folder"),
    ],
)
def test_another_file_is_no_journal(tmp_path, header, what):
    (tmp_path / "journal.jsonl").write_text(header)
    with pytest.raises(ResourceError) as error:
        search_page(tmp_path)
    assert str(error.value) == f"{tmp_path / 'journal.jsonl'}{what}"
