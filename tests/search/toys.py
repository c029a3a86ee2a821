"""An evaluator without a language model: how far a candidate's numbers are from a target."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import surgery
from surgery.errors import SurgeryError


class Target(surgery.Params):
    """Parameters of toy.target."""

    target: float = 0.3
    """What all numbers should be."""
    fails_above: float = 1e9
    """Candidates with a larger number raise."""
    flaky: int = 0
    """How often the evaluation of each candidate raises before it works."""
    mean: float | None = None
    """What is returned as mean instead of it; null for the true one."""
    missing: bool = False
    """Whether `check` finds something missing."""
    text: str = ""
    """A file that scores rest on."""
    control: str = ""
    """A file: how many scores are given before `what` happens; scores are logged beside it."""


class Held(surgery.Resident):
    """Tensors, and the names of those that each candidate loaded."""

    def __init__(self):
        self.tensors, self.loaded, self.asked = {}, [], 0

    def load(self, tensors):
        """Take tensors."""
        new = dict(tensors)
        self.tensors.update(new)
        self.loaded.append(sorted(new))
        self.asked = 0


@surgery.evaluator("toy.target", params=Target)
class TargetEvaluator(surgery.Evaluator):
    """Mean squared distance of all numbers from a target."""

    def check(self, subject, params):
        """Complain if asked to."""
        if params.missing:
            raise SurgeryError("toy.target: something is missing; find it")

    def files(self, subject, params):
        """Return the text."""
        return [subject.folder / params.text] if params.text else []

    def open(self, subject, params):
        """Return an empty resident."""
        resident = Held()
        TargetEvaluator_opened.append((subject, resident))
        return resident

    def score(self, resident, params):
        """Return the distance, and the mean beside it."""
        import torch

        if params.control:
            _obey(Path(params.control))
        resident.asked += 1
        if resident.asked <= params.flaky:
            raise RuntimeError("try\nlater")
        numbers = torch.cat([t.float().flatten() for t in resident.tensors.values()])
        if float(numbers.max()) > params.fails_above:
            raise ValueError("too large")
        mean = float(numbers.mean()) if params.mean is None else params.mean
        return {"score": float((numbers - params.target).square().mean()), "mean": mean}


TargetEvaluator_opened = []


def _obey(control):
    """Log a score; interrupt or kill this process at the one that the file names."""
    log = control.with_suffix(".log")
    count = len(log.read_text().splitlines()) if log.exists() else 0
    at, what = control.read_text().split()
    if count == int(at):
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyboardInterrupt
    with log.open("a") as file:
        file.write("scored\n")
