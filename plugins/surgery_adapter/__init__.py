"""Adapters: small files that change a model; taken out of fine-tunes, scaled, cut to a rank, made one of several."""

from __future__ import annotations

from surgery import hookimpl, ops_in
from surgery.ops import Op


@hookimpl
def surgery_register_ops() -> list[Op]:
    """Return the ops of this family."""
    return ops_in(__name__)
