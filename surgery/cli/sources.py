"""Opens a model that is named on the command line, as a recipe would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.host import Host
    from surgery.plan.virtual import VirtualModel


@contextmanager
def opened(source: str, host: Host, *, stored: bool = False) -> Iterator[VirtualModel]:
    """Open a path, `scheme:...` or Hub id for the time of the context; its checkpoint is the model's donor.

    Quantized tensors are shown as what they stand for, or as they are `stored`. Raises CheckpointError for what
    is no checkpoint.
    """
    from surgery.checkpoint.open import open_checkpoint
    from surgery.plan.virtual import from_checkpoint

    checkpoint = open_checkpoint(source, Path.cwd(), host.formats(), host.schemes())
    if not stored:
        checkpoint = host.decoded(checkpoint)
    try:
        yield from_checkpoint(source, checkpoint, host.architectures())
    finally:
        checkpoint.close()
