"""A search's folder, read back: what it holds, and the page that is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from surgery.checkpoint.strict_json import parse_object
from surgery.errors import CheckpointError
from surgery.recipe.load import parse_recipe
from surgery.recipe.published import published
from surgery.report.manifest import read_manifest
from surgery.report.page import Section
from surgery.report.sources import Made
from surgery.search.history import History
from surgery.search.journal import read_history
from surgery.search.page import history_page, unfinished_page, winner_section
from surgery.search.result import HeldOut, Result
from surgery.search.trial import Trial

JOURNAL: Final = "journal.jsonl"
WINNER: Final = "winner.yaml"
RESULT: Final = "result.json"
PAGE: Final = "report.html"


def is_search(folder: Path) -> bool:
    """Return whether `surgery search` wrote a folder."""
    return (folder / JOURNAL).is_file()


def search_page(folder: Path) -> str:
    """Return the HTML page of a search's folder, of the candidates so far if the search is not finished.

    Changes nothing. Raises ResourceError or CheckpointError for what is damaged.
    """
    history = read_history(folder / JOURNAL)
    result = _result(folder, history)
    if result is None:
        return unfinished_page(history)
    return history_page(result, (folder / WINNER).read_text(encoding="utf-8"))


def found_by(output: Path) -> list[Section]:
    """Return the section on the search whose winner an output is; none if it is not the winner of one.

    It is if the recipe that it was made with is the `winner.yaml` of a finished search, where that recipe lay.
    Raises CheckpointError for a folder that `surgery run` did not write, or a search whose files are damaged.
    """
    manifest = read_manifest(output)
    folder = Made.of(output, manifest).home
    if not (is_search(folder) and (folder / WINNER).is_file()):
        return []
    recipe = parse_recipe((folder / WINNER).read_text(encoding="utf-8"), WINNER, folder)
    if published(recipe) != manifest["recipe"]:
        return []
    result = _result(folder, read_history(folder / JOURNAL))
    return [winner_section(result)] if result else []


def _result(folder: Path, history: History) -> Result | None:
    """Return what a search found; None if it is not finished, or went on since."""
    path = folder / RESULT
    if not path.is_file():
        return None
    told = parse_object(path.read_bytes(), str(path))
    try:
        if told["trials"] + len(told["baselines"]) != len(history.trials):
            return None
        held_out = tuple(HeldOut(**one) for one in told["held_out"])
        return Result(Trial.of(told["winner"]), history, held_out, folder, float(told["wall"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"{path}: is not what `surgery search` writes; the file is damaged") from None
