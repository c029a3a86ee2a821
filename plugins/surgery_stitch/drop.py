"""stitch.drop: a model without some of its layers."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import field_validator

from surgery.ops import Layout, ModelView, Params, layout_op
from surgery_stitch._common import build, only, picked
from surgery_stitch._slices import parse_range
from surgery_stitch._stacks import restored, within


class Drop(Params):
    """Parameters of stitch.drop."""

    layers: int | str | list[int | str]
    """The layers to leave out: `2:5` (half open), or a list of indices and ranges."""

    stack: str | None = None
    """Of models with several stacks the one that is meant, by a word of its path: `encoder`, `decoder`."""

    @field_validator("layers")
    @classmethod
    def _read_as_ranges(cls, layers: int | str | list[int | str]) -> int | str | list[int | str]:
        for entry in layers if isinstance(layers, list) else [layers]:
            parse_range(entry)
        return layers


@layout_op(
    "stitch.drop",
    params=Drop,
    models=1,
    cite=(
        "Men et al. 2024, ShortGPT: Layers in Large Language Models are More Redundant Than You Expect, "
        "arXiv:2403.03853; Gromov et al. 2024, The Unreasonable Ineffectiveness of the Deeper Layers, arXiv:2403.17887"
    ),
)
def drop(models: Mapping[str, ModelView], p: Drop) -> Layout:
    """Leave out some layers of a model; the others keep their order.

    Raises PlanError for layers that the model does not have, or when none would be left.
    """
    views = within(models, p.stack)
    view = only(views)
    entries = p.layers if isinstance(p.layers, list) else [p.layers]
    dropped = {pick for entry in entries for pick in picked(view, parse_range(entry))}
    kept = [pick for pick in picked(view, parse_range(":")) if pick not in dropped]
    return restored(build(views, kept, view, view), models, p.stack)
