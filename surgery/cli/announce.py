"""Who tells what of a run: a progress bar and a table for people, a JSON line an event for machines."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.bar import Bar
from surgery.cli.console import Column, OutputClosed, on_terminal, say, say_json, table, warn
from surgery.cli.kept import Kept, kept_of
from surgery.cli.records import finding_record, report_record
from surgery.errors import SurgeryError
from surgery.tensors import human_bytes

if TYPE_CHECKING:
    from surgery.execute.report import Listener, Progress, Report
    from surgery.plan.model import Plan
    from surgery.schedule.options import RunOptions
    from surgery.schedule.order import Schedule

EVERY = 0.5  # seconds between two lines of progress for machines
FEW = 6  # lines on what ops noted; more are for the page that `surgery report` makes


class Announcer(ABC):
    """Told of a run's stages, in this order; after `planned` the run ends in one of the last three."""

    @abstractmethod
    def planned(self, schedule: Schedule) -> None:
        """Say what will be done, and the warnings."""

    @abstractmethod
    def working(self) -> AbstractContextManager[Listener | None]:
        """Return a context in which the run's progress is shown."""

    @abstractmethod
    def finished(self, report: Report) -> None:
        """Say what was done."""

    @abstractmethod
    def failed(self, error: Exception) -> None:
        """Say that the run failed; the error itself is printed by whoever catches it."""

    @abstractmethod
    def interrupted(self, plan: Plan | None, options: RunOptions) -> None:
        """Say what is kept. `plan` is None when nothing was begun."""


class Nobody(Announcer):
    """All processes of a run but the first: silent."""

    def planned(self, schedule: Schedule) -> None:
        """Say nothing."""

    def working(self) -> AbstractContextManager[None]:
        """Show nothing."""
        return nullcontext()

    def finished(self, report: Report) -> None:
        """Say nothing."""

    def failed(self, error: Exception) -> None:
        """Say nothing."""

    def interrupted(self, plan: Plan | None, options: RunOptions) -> None:
        """Say nothing."""


class ForPeople(Announcer):
    """Warnings and a bar on stderr, a table on stdout."""

    def planned(self, schedule: Schedule) -> None:
        """Print the warnings."""
        for finding in schedule.plan.warnings:
            warn(str(finding))

    def working(self) -> AbstractContextManager[Listener | None]:
        """Show a bar on a terminal, nothing elsewhere."""
        return Bar() if on_terminal(err=True) else nullcontext()

    def finished(self, report: Report) -> None:
        """Print where the outputs are, and what they took."""
        columns = [
            Column("output"),
            Column("folder"),
            *(Column(n, right=True) for n in ("tensors", "size", "files")),
        ]
        table(
            columns,
            [
                (o.name, o.url or str(o.folder), f"{o.tensors:,}", human_bytes(o.nbytes), str(o.shards))
                for o in report.outputs
            ],
        )
        say(took(report))
        for line in noted(report):
            say(line)
        if report.resumed:
            say(f"{report.resumed:,} tensors were kept from an interrupted run")

    def failed(self, error: Exception) -> None:
        """Say nothing: the message itself is enough."""

    def interrupted(self, plan: Plan | None, options: RunOptions) -> None:
        """Print what is kept and how to go on."""
        click.echo(interruption(kept_of(plan), resume=options.resume), err=True)


class ForMachines(Announcer):
    """One JSON object a line on stdout."""

    def planned(self, schedule: Schedule) -> None:
        """Print what will be read, written and needed."""
        plan = schedule.plan
        _tell(
            "planned",
            bytes_read=schedule.reads,
            bytes_written=schedule.writes,
            peak=schedule.peak,
            tensors=sum(len(output.tensors) for output in plan.outputs),
            outputs=[{"name": output.name, "folder": str(output.folder)} for output in plan.outputs],
            warnings=[finding_record(finding) for finding in plan.warnings],
        )

    def working(self) -> AbstractContextManager[Listener | None]:
        """Print progress at most twice a second."""
        return nullcontext(Ticks())

    def finished(self, report: Report) -> None:
        """Print the report."""
        _tell("finished", **report_record(report))

    def failed(self, error: Exception) -> None:
        """Print the message and its findings."""
        text = str(error) if isinstance(error, SurgeryError) else f"bug: {type(error).__name__}: {error}"
        found = [finding_record(finding) for finding in getattr(error, "findings", ())]
        _tell("failed", error=text, findings=found)

    def interrupted(self, plan: Plan | None, options: RunOptions) -> None:
        """Print what is kept."""
        _tell("interrupted", kept=[kept.record() for kept in kept_of(plan)])


class Ticks:
    """A listener that prints progress as JSON lines."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, progress: Progress) -> None:
        """Print, unless the last line is younger than half a second."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY
        rate = progress.done / progress.seconds if progress.seconds > 0 else 0.0
        eta = round((progress.total - progress.done) / rate, 1) if rate else None
        _tell(
            "progress",
            done=progress.done,
            total=progress.total,
            seconds=round(progress.seconds, 3),
            eta=eta,
            tensor=progress.tensor,
            **({"note": progress.note} if progress.note else {}),
        )


def _tell(event: str, **facts: Any) -> None:
    """Print an event. When nobody reads any more the work goes on: its result does not depend on who watches."""
    with contextlib.suppress(OutputClosed):
        say_json({"event": event, **facts}, indent=None)


def took(report: Report) -> str:
    """Return time, bytes, rate, memory, workers and device in one line."""
    moved = report.bytes_read + report.bytes_written
    parts = [
        f"{report.seconds:.1f} s",
        f"read {human_bytes(report.bytes_read)}",
        f"wrote {human_bytes(report.bytes_written)}",
        f"{human_bytes(moved / max(report.seconds, 1e-9))}/s",
        f"peak memory {human_bytes(report.peak_rss)}",
        f"{report.workers} {'worker' if report.workers == 1 else 'workers'} on {report.device}",
    ]
    return ", ".join(parts)


def noted(report: Report) -> list[str]:
    """Return what ops noted, a line for each step: each number from the least to the most; nothing of many steps."""
    from surgery.report.noted import rows_of

    lines: dict[str, list[str]] = {}
    for output in report.outputs:
        for row in rows_of(output.notes):
            least, most = (f"{row.numbers[tensor]:.3g}" for tensor in (row.least, row.most))
            span = least if least == most else f"{least} to {most}"
            tensors = f"{len(row.numbers):,} {'tensor' if len(row.numbers) == 1 else 'tensors'}"
            where = f"{output.name}: {row.step}" if len(report.outputs) > 1 else row.step
            lines.setdefault(f"{where}, {tensors}", []).append(f"{row.name} {span}")
    told = [f"{where}: {', '.join(numbers)}" for where, numbers in lines.items()]
    return told if len(told) <= FEW else []


def interruption(kept: list[Kept], *, resume: bool) -> str:
    """Return what to say after Ctrl-C."""
    if not any(one.tensors for one in kept):
        return "interrupted: nothing is finished yet; run the same command again to begin anew"
    lines = [
        f"interrupted: {one.tensors:,} of {one.total:,} tensors are kept in {one.folder}" for one in kept
    ]
    advice = "the same command again" if resume else "the same command without --no-resume"
    return "\n".join([*lines, f"run {advice} to continue"])
