"""What an interrupted run has left for the next one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import CheckpointError

if TYPE_CHECKING:
    from surgery.plan.model import Output, Plan


@dataclass(frozen=True, slots=True)
class Kept:
    """A partial output: its folder, the tensors that are safely in it, and how many there will be."""

    folder: Path
    tensors: int
    total: int

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"folder": str(self.folder), "tensors": self.tensors, "total": self.total}


def kept_of(plan: Plan | None) -> list[Kept]:
    """Return what is kept of each output; nothing without a plan."""
    found = [_kept(output) for output in plan.outputs] if plan else []
    return [one for one in found if one is not None]


def _kept(output: Output) -> Kept | None:
    from surgery.checkpoint.journal import Journal
    from surgery.execute.sink import WORK
    from surgery.plan.destinations import partial_folder

    if output.folder is None:
        return None
    folder = partial_folder(output.folder)
    names: set[str] = set()
    for file in (folder / WORK).glob("journal-*.jsonl"):
        try:
            names |= {entry.name for entry in Journal(file).load()}
        except CheckpointError:  # the next run says what is wrong with it
            continue
    return Kept(folder, len(names), len(output.tensors))
