"""What a search found: the winner beside the baselines, on the search's data and on data that it never saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from surgery.search.history import About, History
from surgery.search.trial import Trial


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The final score of the winner or a baseline, on data that the search never saw."""

    name: str
    score: float | None
    parts: Mapping[str, float]
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A finished search.

    winner    the best of the recipe's own candidates (its centre among them)
    history   what it was about, and all candidates
    held_out  winner and baselines on held-out data; empty without such data
    """

    winner: Trial
    history: History
    held_out: tuple[HeldOut, ...]
    folder: Path
    seconds: float

    @property
    def about(self) -> About:
        """Return what was searched, and how."""
        return self.history.about

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Return all candidates, baselines first."""
        return self.history.trials

    @property
    def baselines(self) -> list[Trial]:
        """Return the baselines."""
        return self.history.baselines

    def beaten_by(self) -> list[str]:
        """Return the baselines that are at least as good as the winner, on held-out data where there is such."""
        return [name for name, score in self._rivals() if not self.about.better(self.final, score)]

    @property
    def final(self) -> float:
        """Return the winner's score on held-out data; without such data the one that it won by."""
        held = next((one.score for one in self.held_out if one.name == "winner"), None)
        assert self.winner.score is not None
        return self.winner.score if held is None else held

    def _rivals(self) -> list[tuple[str, float]]:
        mine = self.winner.name
        if self.held_out:
            scores = [(one.name, one.score) for one in self.held_out if one.name not in ("winner", mine)]
        else:
            scores = [(trial.name, trial.score) for trial in self.baselines if trial.name != mine]
        return [(name, score) for name, score in scores if score is not None]

    def costs(self) -> dict[str, float]:
        """Return the median seconds of planning, making weights, evaluating, and their sum over the last.

        Of trials alone: the first candidates open files and models.
        """
        kinds = ("plan", "weights", "evaluate")
        timed = [t.cost for t in self.trials if t.kind == "trial" and t.cost]
        if not timed:
            return {}
        medians = {kind: median(cost[kind] for cost in timed) for kind in kinds}
        ratios = [sum(cost[kind] for kind in kinds) / cost["evaluate"] for cost in timed if cost["evaluate"]]
        return {**medians, "over_evaluation": round(median(ratios), 4)} if ratios else medians

    def record(self) -> dict[str, Any]:
        """Return the result as plain data, for `result.json`."""
        return {
            "winner": self.winner.record(),
            "baselines": [trial.record() for trial in self.baselines],
            "held_out": [asdict(one) for one in self.held_out],
            "beaten_by": self.beaten_by(),
            **self.about.record(),
            "trials": len(self.trials) - len(self.baselines),
            "failures": sum(trial.failure is not None for trial in self.trials),
            "scored": sum(bool(trial.cost) for trial in self.trials),
            "seconds": self.costs(),
            "wall": round(self.seconds, 3),
        }
