"""Pruning: weights set to zero by a score, unstructured or in N:M patterns, and the masks that tell which."""

from __future__ import annotations

from surgery import hookimpl, ops_in
from surgery.ops import Op


@hookimpl
def surgery_register_ops() -> list[Op]:
    """Return the ops of this family."""
    return ops_in(__name__)
