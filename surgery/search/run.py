"""A whole search, from a recipe with holes to its folder: journal, winner, result, page."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from surgery.errors import ResourceError, SurgeryError
from surgery.recipe.load import parse_recipe, recipe_of
from surgery.schedule.options import RunOptions
from surgery.search.baselines import Baseline, baselines
from surgery.search.folder import JOURNAL, PAGE, RESULT, WINNER
from surgery.search.history import About, History, best
from surgery.search.journal import SearchJournal
from surgery.search.loop import Listener, Loop
from surgery.search.page import history_page
from surgery.search.result import HeldOut, Result
from surgery.search.stage import Stage, in_one_line
from surgery.search.task import Task
from surgery.search.trial import Trial
from surgery.search.winner import plain_yaml
from surgery.search.workbench import Candidate, Workbench, file_digest


def search(
    task: Task,
    options: RunOptions | None = None,
    *,
    out: Path | None = None,
    trials: int | None = None,
    resume: bool = False,
    listener: Listener = lambda _: None,
) -> Result:
    """Carry a search out and return what it found; its folder then holds journal, winner, result and page.

    out       the folder, instead of the recipe's `search.to`
    trials    how many, instead of the recipe's
    resume    go on with the folder's journal

    Raises SurgeryError when nothing can be scored; on Ctrl-C the journal keeps all candidates that are done.
    """
    options = options or RunOptions()
    folder = _folder(task, out, resume=resume)
    bench = Workbench(task.host, options)
    try:
        return _Search(task, bench, folder, _device(options)).run(trials, listener)
    finally:
        bench.close()


class _Search:
    """The parts of one search."""

    def __init__(self, task: Task, bench: Workbench, folder: Path, device: str) -> None:
        self.task, self.bench, self.folder, self.device = task, bench, folder, device
        self.evaluator = task.evaluator.make()
        self.stage = Stage(bench, self.evaluator, task.params, device, task.settings.retries)

    def run(self, trials: int | None, listener: Listener) -> Result:
        began = time.monotonic()
        settings = self.task.settings
        centre = self.bench.plan(self.task.recipe(self.task.space.centre))
        self._check(centre)
        about = self._about()
        journal = SearchJournal(self.folder / JOURNAL, self._identity(centre), about)
        journaled = deque(journal.load() if journal.path.exists() else [])
        rivals = baselines(self.task, centre.plan)
        loop = Loop(self.task, self.bench, self.stage, journal, listener, journaled)
        try:
            done = loop.run(rivals, trials or settings.trials)
        finally:
            journal.close()
        winner = best([trial for trial in done if trial.genome is not None], settings.goal)
        if winner is None:
            raise SurgeryError(f"search: no candidate can be scored: {done[-1].failure}")
        text = self._winner(winner)
        result = Result(
            winner=winner,
            history=History(about, tuple(done)),
            held_out=tuple(self._held_out(winner, rivals)),
            folder=self.folder,
            seconds=time.monotonic() - began,
        )
        self._write(result, text)
        return result

    def _write(self, result: Result, winner: str) -> None:
        """Write what a finished search leaves beside its journal."""
        files = {
            WINNER: winner,
            RESULT: json.dumps(result.record(), indent=2) + "\n",
            PAGE: history_page(result, winner),
        }
        for name, text in files.items():
            (self.folder / name).write_text(text, encoding="utf-8")

    def _about(self) -> About:
        """Return what the search is about."""
        task = self.task
        genes = tuple(gene.name for gene in task.space.genes)
        return About(task.settings.goal, task.space.describe(), genes, task.sampler.name, task.evaluator.name)

    def _check(self, centre: Candidate) -> None:
        """Let the evaluator look for what would make every candidate fail."""
        subject = centre.subject(self.device)
        for params in (self.task.params, self.task.held_out):
            if params is not None:
                self.evaluator.check(subject, params)

    def _identity(self, centre: Candidate) -> str:
        """Return the digest of what makes candidates and their scores: recipe, models, the evaluator's files."""
        data = dict(self.task.space.document.data)
        data["search"] = {key: value for key, value in data["search"].items() if key not in _LATER}
        hasher = xxhash.xxh3_128(json.dumps(data).encode())
        for name, checkpoint in centre.plan.checkpoints.items():
            for tensor in checkpoint.tensors:
                hasher.update(name.encode() + checkpoint.identity(tensor))
        for file in self.evaluator.files(centre.subject(self.device), self.task.params):
            hasher.update(file_digest(file).encode())
        return hasher.hexdigest()

    def _winner(self, winner: Trial) -> str:
        """Return the winner's recipe, after making sure that what was written is what was scored."""
        assert winner.genome is not None
        filled = self.task.space.filled(winner.genome)
        notes = [
            f"Found by `surgery search` in {winner.name}: score {winner.score:.6g} "
            f"({self.task.evaluator.name}, seed {winner.seed}).",
        ]
        text = plain_yaml(filled, self.task.folder, self.folder, notes)
        again = self.bench.plan(parse_recipe(text, WINNER, self.folder))
        if again.digests != self.bench.plan(recipe_of(filled, self.task.folder)).digests:
            raise AssertionError("the winner's recipe makes other tensors than its candidate had")
        return text

    def _held_out(self, winner: Trial, rivals: Sequence[Baseline]) -> list[HeldOut]:
        """Return the scores of winner and baselines on data that the search never saw."""
        if self.task.held_out is None:
            return []
        assert winner.genome is not None
        candidates = [("winner", self.task.space.filled(winner.genome))]
        candidates += [(rival.name, rival.document) for rival in rivals]
        return [self._final(name, document, self.task.held_out) for name, document in candidates]

    def _final(self, name: str, document: Any, params: Any) -> HeldOut:
        try:
            found = self.stage.score(self.bench.plan(recipe_of(document, self.task.folder)), params)
        except Exception as error:  # as in the search itself
            return HeldOut(name, None, {}, in_one_line(error))
        return HeldOut(name, found.score, dict(found.parts))


# What may change between a search and its resumption: no score depends on it.
_LATER = ("trials", "to", "held_out", "retries")


def _folder(task: Task, out: Path | None, *, resume: bool) -> Path:
    """Return the search's folder. Raises ResourceError if another search is there and is not to be resumed."""
    if out is None and task.settings.to is None:
        raise ResourceError(
            f"{task.file}: says not where to write; add `search.to: FOLDER` or pass --out FOLDER"
        )
    folder = out if out is not None else task.folder / Path(task.settings.to or "").expanduser()
    if (folder / JOURNAL).exists() and not resume:
        raise ResourceError(
            f"{folder}: holds a search; pass --resume to go on with it, or choose another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be made: {error.strerror}; choose another folder") from error
    return folder


def _device(options: RunOptions) -> str:
    """Return where candidates are evaluated, as torch names it. Raises ResourceError for a device that is not there."""
    from surgery.execute.device import world

    return world(options.device).device.type
