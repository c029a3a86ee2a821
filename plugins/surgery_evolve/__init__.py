"""Samplers: how candidates of a search are proposed."""

from __future__ import annotations

from surgery import hookimpl, samplers_in
from surgery.trials import SamplerKind


@hookimpl
def surgery_register_samplers() -> list[SamplerKind]:
    """Return the samplers of this family."""
    return samplers_in(__name__)
