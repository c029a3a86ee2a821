"""What a search is about, and every candidate so far: what its journal holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from surgery.search.trial import Trial


@dataclass(frozen=True, slots=True)
class About:
    """What a search looks for and how; the first line of its journal says it.

    goal   `minimize` or `maximize`
    space  the space in words
    genes  where the values stand in the recipe
    """

    goal: str
    space: str
    genes: tuple[str, ...]
    sampler: str
    evaluator: str

    def better(self, a: float, b: float) -> bool:
        """Return whether score `a` is better than `b`."""
        return a < b if self.goal == "minimize" else a > b

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "genes": list(self.genes)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> About:
        """Return what a record says. Raises KeyError or TypeError for another kind of record."""
        given = {one.name: record[one.name] for one in fields(cls)}
        return cls(**{**given, "genes": tuple(given["genes"])})


@dataclass(frozen=True, slots=True)
class History:
    """A search so far; `trials` are all candidates, baselines first."""

    about: About
    trials: tuple[Trial, ...]

    @property
    def baselines(self) -> list[Trial]:
        """Return the baselines."""
        return [trial for trial in self.trials if trial.kind == "baseline"]


def best(trials: Sequence[Trial], goal: str) -> Trial | None:
    """Return the candidate with the best score, the earliest of several; None if none has a score."""
    sign = 1.0 if goal == "minimize" else -1.0
    scored = [trial for trial in trials if trial.score is not None]
    return min(scored, key=lambda trial: (sign * (trial.score or 0.0), trial.number), default=None)


def progress(trials: Sequence[Trial], goal: str) -> list[tuple[float, float]]:
    """Return the best score so far after each trial, by the trial's place among the trials."""
    points: list[tuple[float, float]] = []
    for place, trial in enumerate((t for t in trials if t.kind == "trial"), start=1):
        if trial.score is None:
            continue
        last = points[-1][1] if points else trial.score
        points.append((place, min(last, trial.score) if goal == "minimize" else max(last, trial.score)))
    return points
