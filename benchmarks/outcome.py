"""What a side-by-side run of a method comes to: the best of each contestant, ratios, targets, a table."""

from __future__ import annotations

from dataclasses import dataclass

from compare import Differences
from engines import MERGEKIT_DTYPES, Run
from rich.table import Table
from rounds import MIB, Rounds


@dataclass(frozen=True, slots=True)
class Target:
    """What surgery has to reach: its execution over the floor's at most, mergekit's over its own at least."""

    over_floor: float | None
    faster: float

    def missed(self, over_floor: float, faster: float) -> list[str]:
        """Return, in words, what was not reached."""
        missed = []
        if self.over_floor is not None and over_floor > self.over_floor:
            missed.append(f"{over_floor:.2f} x the floor, wanted {self.over_floor} at most")
        if faster < self.faster:
            missed.append(f"{faster:.1f} x as fast as mergekit, wanted {self.faster} at least")
        return missed


TARGETS = {"linear": Target(over_floor=1.3, faster=8.0), "ties": Target(over_floor=None, faster=10.0)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """All runs of one method, by contestant, and how surgery's output differs from each of mergekit's."""

    method: str
    runs: dict[str, list[Run]]
    differences: dict[str, Differences]

    def best(self, contestant: str) -> Run:
        """Return the shortest times over a contestant's rounds, and the highest peaks."""
        return Rounds(self.runs).best(contestant)

    @property
    def peer(self) -> str:
        """Return mergekit's fastest variant: the one that counts."""
        return min(MERGEKIT_DTYPES[self.method], key=lambda variant: self.best(variant).execution)

    def ratios(self) -> dict[str, float]:
        """Return surgery's time over the floor's, and mergekit's time and memory over surgery's."""
        ours, peer, floor = self.best("surgery"), self.best(self.peer), self.best("floor")
        return {
            "over_floor": round(ours.execution / floor.execution, 3),
            "faster_execution": round(peer.execution / ours.execution, 2),
            "faster_process": round(peer.process / ours.process, 2),
            "less_memory": round(peer.peak_anonymous / ours.peak_anonymous, 2),
        }

    def missed(self) -> list[str]:
        """Return, in words, the targets that were not reached."""
        ratios = self.ratios()
        missed = TARGETS[self.method].missed(ratios["over_floor"], ratios["faster_execution"])
        if not self.differences["mergekit"].same:
            missed.append("other numbers than mergekit's")
        return missed

    def record(self) -> dict[str, object]:
        """Return everything as JSON holds it."""
        return {
            "best": {name: self.best(name).record() for name in self.runs},
            "runs": {name: [run.record() for run in runs] for name, runs in self.runs.items()},
            "counted_peer": self.peer,
            "ratios": self.ratios(),
            "missed": self.missed(),
            "differences": {name: found.record() for name, found in self.differences.items()},
        }


def table(outcomes: list[Outcome]) -> list[Table]:
    """Return the times and memory of every contestant, the ratios, and the differences."""
    return [_times(outcomes), _ratios(outcomes), _differences(outcomes)]


def _times(outcomes: list[Outcome]) -> Table:
    columns = ("method", "program", "execution s", "process s", "anonymous MiB", "resident MiB")
    grid = Table(*columns, title="shortest times, highest peaks")
    for outcome in outcomes:
        for name in outcome.runs:
            run = outcome.best(name)
            seconds = f"{run.execution:.2f}", f"{run.process:.2f}"
            grid.add_row(outcome.method, name, *seconds, _mib(run.peak_anonymous), _mib(run.peak_resident))
    return grid


def _ratios(outcomes: list[Outcome]) -> Table:
    columns = ("method", "surgery / floor", "mergekit / surgery", "process", "memory", "mergekit's variant")
    grid = Table(*columns, title="ratios")
    for outcome in outcomes:
        numbers = [f"{value:.2f}" for value in outcome.ratios().values()]
        grid.add_row(outcome.method, *numbers, outcome.peer)
    return grid


def _differences(outcomes: list[Outcome]) -> Table:
    """Split the elements that differ: those where a delta equals a threshold, and all others."""
    columns = ("method", "against", "at a threshold", "elsewhere", "by at most", "same")
    grid = Table(*columns, title="elements of surgery's output that differ from mergekit's")
    for outcome in outcomes:
        for name, found in outcome.differences.items():
            shares = f"{found.at_threshold / found.elements:.3%}", f"{found.elsewhere / found.elements:.3%}"
            most = f"{found.largest_step} ulp, {found.largest_gap:.2g}"
            grid.add_row(outcome.method, name, *shares, most, "yes" if found.same else "no")
    return grid


def _mib(count: int) -> str:
    return f"{count / MIB:.0f}"
