"""stitch.layers: a new model out of any layers of any models, in any order."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import field_validator

from surgery.ops import Layout, ModelView, Params, layout_op
from surgery_stitch._common import Tied, build, named, picked
from surgery_stitch._slices import parse_slice
from surgery_stitch._stacks import restored, within


class TakeLayers(Params):
    """Layers taken from a model: `{take: "a[0:3]"}`, the long form of `"a[0:3]"`."""

    take: str
    """`NAME[start:stop]`, half open, or `NAME[i]`."""

    @field_validator("take")
    @classmethod
    def _reads_as_slice(cls, text: str) -> str:
        parse_slice(text)
        return text


class Layers(Params):
    """Parameters of stitch.layers."""

    layers: list[str | TakeLayers]
    """The new model's layers in order: `NAME[start:stop]`, half open, or `NAME[i]`."""

    embed: str | None = None
    """The model that gives the embeddings and config.json; by default that of the first slice."""

    head: str | None = None
    """The model that gives the final norm and the head; by default that of the last slice."""

    tied: Tied = "refuse"
    """If both of them tie their head to their embeddings: refuse, or tie the result's to those of `embed`."""

    stack: str | None = None
    """Of models with several stacks the one that is meant, by a word of its path: `encoder`, `decoder`."""

    @field_validator("layers")
    @classmethod
    def _read_as_slices(cls, layers: list[str | TakeLayers]) -> list[str | TakeLayers]:
        if not layers:
            raise ValueError("no layers; write at least one slice such as `a[0:3]`")
        for entry in layers:
            if isinstance(entry, str):
                parse_slice(entry)
        return layers


@layout_op(
    "stitch.layers",
    params=Layers,
    cite="Akiba et al. 2025, Evolutionary Optimization of Model Merging Recipes, arXiv:2403.13187 (data-flow space)",
)
def layers(models: Mapping[str, ModelView], p: Layers) -> Layout:
    """Build a model out of layers of others.

    Layer l of the result is the l-th layer that `layers` names; a layer may be named more than once.
    Settings, widths and tensor names of all models must agree. Embeddings and config.json come from `embed`,
    the final norm and the head from `head`. With `stack` only that stack's layers are named: its final norm comes from
    `head`, everything else from `embed`. Raises PlanError naming what differs, or a range past the end.
    """
    views = within(models, p.stack)
    slices = [parse_slice(entry if isinstance(entry, str) else entry.take) for entry in p.layers]
    picks = [pick for part in slices for pick in picked(named(views, part.model), part.layers)]
    embed, head = p.embed or slices[0].model, p.head or slices[-1].model
    layout = build(views, picks, named(views, embed), named(views, head), p.tied)
    return restored(layout, models, p.stack)
