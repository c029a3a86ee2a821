"""Where candidates are scored: the evaluator's resident, and what it holds at the moment.

Only tensors whose digest is another than that of what the resident holds are computed and copied.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.errors import SurgeryError
from surgery.search.workbench import Candidate, Workbench
from surgery.trials import Evaluator, Resident, Score

if TYPE_CHECKING:
    import torch


class ScoreError(SurgeryError):
    """A candidate that could not be scored: what the evaluator raised, or a score that is no number."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A score, the numbers it came with, and what it took: seconds for the tensors and for the evaluation."""

    score: float
    parts: Mapping[str, float]
    weights: float
    evaluate: float
    loaded: int  # tensors


class Stage:
    """Scores candidates one after another on a resident that is opened once, or again for another shape of model.

    `retries` is how often an evaluation that raises is tried again.
    """

    def __init__(
        self, bench: Workbench, evaluator: Evaluator, params: Any, device: str, retries: int = 0
    ) -> None:
        self._bench, self._evaluator, self._params, self._device = bench, evaluator, params, device
        self._retries = retries
        self._resident: Resident | None = None
        self._shape = ""
        self._holds: dict[str, str] = {}

    def score(self, candidate: Candidate, params: Any) -> Measurement:
        """Load a candidate and return its score. Raises SurgeryError for candidates that cannot be scored."""
        began = time.perf_counter()
        resident, loaded = self._load(candidate)
        ready = time.perf_counter()
        found = self._evaluated(resident, params)
        evaluated = time.perf_counter() - ready
        parts = _parts(found)
        return Measurement(parts.pop("score"), parts, ready - began, evaluated, loaded)

    def _evaluated(self, resident: Resident, params: Any) -> Score:
        """Return what the evaluator says, asked again as often as may be while it raises."""
        tries = 1
        while True:
            try:
                return self._evaluator.score(resident, params)
            except Exception as error:  # an evaluator's code: anything
                if tries > self._retries:
                    times = f" ({tries} tries)" if tries > 1 else ""
                    raise ScoreError(f"{in_one_line(error)}{times}") from error
            tries += 1

    def _load(self, candidate: Candidate) -> tuple[Resident, int]:
        """Bring the resident to hold a candidate; return it and how many tensors were copied."""
        resident = self._opened(candidate)
        changed = {name for name, digest in candidate.digests.items() if self._holds.get(name) != digest}
        try:
            resident.load(self._noted(candidate, changed))
        except SurgeryError:
            raise
        except Exception as error:
            self._resident = None  # nobody knows what it holds
            raise ScoreError(in_one_line(error)) from error
        return resident, len(changed)

    def _noted(self, candidate: Candidate, changed: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._bench.tensors(candidate, changed):
            self._holds.pop(name, None)  # until the next is asked for, it may be half copied
            yield name, tensor
            self._holds[name] = candidate.digests[name]

    def _opened(self, candidate: Candidate) -> Resident:
        output = candidate.output
        names = sorted((t.spec.name, t.spec.shape, t.spec.dtype) for t in output.tensors)
        shape = json.dumps([output.config, names], sort_keys=True, default=str)
        if self._resident is None or shape != self._shape:
            self._resident, self._holds, self._shape = None, {}, shape
            try:
                self._resident = self._evaluator.open(candidate.subject(self._device), self._params)
            except SurgeryError:
                raise
            except Exception as error:
                raise ScoreError(in_one_line(error)) from error
        return self._resident


def _parts(found: Score) -> dict[str, float]:
    """Return the numbers that an evaluator gave; `score` is among them and finite."""
    parts = dict(found) if isinstance(found, Mapping) else {"score": found}
    if "score" not in parts:
        raise ScoreError(f"the evaluator returned {sorted(parts)}; one of its numbers must be called `score`")
    for name, value in parts.items():
        try:
            parts[name] = float(value)
        except (TypeError, ValueError):
            raise ScoreError(f"the evaluator returned {value!r} as `{name}`; return numbers") from None
        if not math.isfinite(parts[name]):
            what = "the score" if name == "score" else f"the evaluator's `{name}`"
            raise ScoreError(f"{what} is {parts[name]}")
    return parts


def in_one_line(error: Exception) -> str:
    """Return an exception in one line."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, SurgeryError) else f"{type(error).__name__}: {text}"
