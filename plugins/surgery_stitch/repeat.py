"""stitch.repeat: a deeper model in which a stretch of layers occurs more than once."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from surgery.ops import Layout, ModelView, Params, layout_op
from surgery_stitch._common import build, only, picked
from surgery_stitch._slices import parse_range
from surgery_stitch._stacks import restored, within


class Repeat(Params):
    """Parameters of stitch.repeat."""

    layers: str
    """The layers that occur more than once: `8:24`, half open."""

    times: int = Field(default=2, ge=1)
    """How often they occur in the result."""

    stack: str | None = None
    """Of models with several stacks the one that is meant, by a word of its path: `encoder`, `decoder`."""

    @field_validator("layers")
    @classmethod
    def _reads_as_range(cls, layers: str) -> str:
        parse_range(layers)
        return layers


@layout_op(
    "stitch.repeat",
    params=Repeat,
    models=1,
    cite="Kim et al. 2024, SOLAR 10.7B, arXiv:2312.15166 (depth up-scaling)",
)
def repeat(models: Mapping[str, ModelView], p: Repeat) -> Layout:
    """Repeat a stretch of layers: `8:24` of 32 layers twice is [0:24] + [8:32], the 48 layers of SOLAR.

    Raises PlanError for layers that the model does not have.
    """
    views = within(models, p.stack)
    view = only(views)
    every = picked(view, parse_range(":"))
    stretch = picked(view, parse_range(p.layers))
    behind = stretch[-1][1] + 1
    picks = every[:behind] + stretch * (p.times - 1) + every[behind:]
    return restored(build(views, picks, view, view), models, p.stack)
