"""Quantizing: weights as few-bit codes with scales, in the formats that engines load."""

from __future__ import annotations

from surgery import hookimpl, ops_in
from surgery.ops import Op


@hookimpl
def surgery_register_ops() -> list[Op]:
    """Return the ops of this family."""
    return ops_in(__name__)
