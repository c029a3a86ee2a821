"""A progress bar on stderr: bytes, rate, time left, and the tensor that was written last."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from surgery.cli.console import printable, rich_console
from surgery.tensors import human_bytes

if TYPE_CHECKING:
    from surgery.execute.report import Progress as Step


class Bar:
    """A run's listener that draws; used as a context, it clears the line at the end."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column

        name = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self._progress = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%", markup=False),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[tensor]}", markup=False, table_column=name),
            console=rich_console(err=True),
            transient=True,
            expand=True,
        )
        self._task = self._progress.add_task("", total=None, tensor="", rate="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, step: Step) -> None:
        """Show how far the work is."""
        self.show(step.done, step.total, step.note or step.tensor)

    def show(self, done: int, total: int, tensor: str) -> None:
        """Show bytes done of all, and a tensor's name."""
        speed = self._progress.tasks[self._task].speed
        rate = f"{human_bytes(speed)}/s" if speed else ""
        self._progress.update(
            self._task, completed=done, total=max(total, 1), tensor=printable(tensor), rate=rate
        )
