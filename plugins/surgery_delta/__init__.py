"""Deltas as files: what a fine-tune changed, in few bits; read back together with the base that it was taken of."""

from __future__ import annotations

from surgery import hookimpl, ops_in
from surgery.checkpoint.base import AdapterFormat, Checkpoint
from surgery.ops import Op


@hookimpl
def surgery_register_ops() -> list[Op]:
    """Return the ops of this family."""
    return ops_in(__name__)


@hookimpl
def surgery_register_adapters() -> list[AdapterFormat]:
    """Return stored deltas, which are added to a base."""
    from surgery_delta._open import DELTA

    return [DELTA]


@hookimpl
def surgery_decode_checkpoint(checkpoint: Checkpoint) -> Checkpoint | None:
    """Return a view of a stored delta that no op takes for weights; None for anything else."""
    from surgery_delta._open import by_itself

    return by_itself(checkpoint)
