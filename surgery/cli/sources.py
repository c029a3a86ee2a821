"""Opens a model that is named on the command line, as a recipe would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.checkpoint.base import Checkpoint
    from surgery.host import Host
    from surgery.plan.virtual import VirtualModel


@contextmanager
def opened(source: str, host: Host) -> Iterator[VirtualModel]:
    """Open a path, `scheme:...` or Hub id for the time of the context; its checkpoint is the model's donor.

    Raises CheckpointError for what is no checkpoint.
    """
    from surgery.checkpoint.open import open_checkpoint
    from surgery.plan.virtual import from_checkpoint

    checkpoint = open_checkpoint(source, Path.cwd(), host.formats(), host.schemes())
    try:
        yield from_checkpoint(source, checkpoint, host.architectures())
    finally:
        checkpoint.close()


def files_of(checkpoint: Checkpoint) -> list[Path]:
    """Return the files that hold the tensors, as far as the reader says where they lie."""
    extents = (checkpoint.extent(name) for name in checkpoint.tensors)
    return sorted({Path(extent.file) for extent in extents if extent is not None})
