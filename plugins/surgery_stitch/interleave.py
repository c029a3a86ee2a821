"""stitch.interleave: layers of several models by turns, as many as each has."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from surgery.errors import PlanError
from surgery.ops import Layout, ModelView, Params, layout_op
from surgery_stitch._common import build
from surgery_stitch._config import layer_count
from surgery_stitch._stacks import restored, within


class Interleave(Params):
    """Parameters of stitch.interleave."""

    every: int = Field(default=1, ge=1)
    """How many layers come from one model before the next model's turn."""

    stack: str | None = None
    """Of models with several stacks the one that is meant, by a word of its path: `encoder`, `decoder`."""


@layout_op(
    "stitch.interleave",
    params=Interleave,
    models=(2, None),
    cite="Akiba et al. 2025, Evolutionary Optimization of Model Merging Recipes, arXiv:2403.13187 (data-flow space)",
)
def interleave(models: Mapping[str, ModelView], p: Interleave) -> Layout:
    """Take layer l from model (l // every) mod T, in the order in which the step lists its T models.

    The result is as deep as each of them. Embeddings and config.json come from the first model, the final
    norm and the head from the model of the last layer. Raises PlanError when the models are not equally deep.
    """
    seen = within(models, p.stack)
    views = list(seen.values())
    counts = {view.name: layer_count(view) for view in views}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"`{name}` {count}" for name, count in counts.items())
        raise PlanError(f"the models have different numbers of layers: {listed}; write stitch.layers instead")
    depth = next(iter(counts.values()))
    turns = [views[layer // p.every % len(views)] for layer in range(depth)]
    picks = [(view.name, layer) for layer, view in enumerate(turns)]
    return restored(build(seen, picks, views[0], turns[-1]), models, p.stack)
