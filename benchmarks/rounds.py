"""All runs of some programs: the best of each, a record, a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engines import Run
from rich.table import Table

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Rounds:
    """All runs, by program."""

    runs: dict[str, list[Run]]

    def best(self, program: str) -> Run:
        """Return the shortest times over a program's rounds, and the highest peaks."""
        runs = self.runs[program]
        return Run(
            min(run.execution for run in runs),
            min(run.process for run in runs),
            max(run.peak_anonymous for run in runs),
            max(run.peak_resident for run in runs),
        )

    def fastest(self, programs: Iterable[str]) -> str:
        """Return the one of some programs that executed in the shortest time."""
        return min(programs, key=lambda program: self.best(program).execution)

    def record(self) -> dict[str, object]:
        """Return everything as JSON holds it."""
        return {
            "best": {name: self.best(name).record() for name in self.runs},
            "runs": {name: [run.record() for run in runs] for name, runs in self.runs.items()},
        }


def table(rounds: Rounds, title: str) -> Table:
    """Return times and memory of every program."""
    grid = Table("program", "execution s", "process s", "anonymous MiB", "resident MiB", title=title)
    for name in rounds.runs:
        run = rounds.best(name)
        peaks = (f"{peak / MIB:.0f}" for peak in (run.peak_anonymous, run.peak_resident))
        grid.add_row(name, f"{run.execution:.2f}", f"{run.process:.2f}", *peaks)
    return grid
