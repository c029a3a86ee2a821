"""Layout ops without an engine: models made of names and shapes, and what an op makes of them. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from surgery.architecture import Architecture
from surgery.errors import PlanError
from surgery.layout import Call, File, Layout, ModelView, Piece, Stack, Take
from surgery.ops import Op, Split
from surgery.plan.virtual import annotate, layer_count
from surgery.tensors import TensorSpec


def view(
    name: str,
    specs: Mapping[str, TensorSpec],
    config: Mapping[str, Any],
    architecture: Architecture,
    files: Mapping[str, File] = MappingProxyType({}),
) -> ModelView:
    """Return what a layout op sees of a model; roles and ties come from `architecture`, layers from the names."""
    tensors = annotate(specs, architecture)
    layers = layer_count(tensors)
    frozen = MappingProxyType(tensors), MappingProxyType(dict(config))
    ties = architecture.tied.items() if config.get("tie_word_embeddings") else ()
    tied = {alias: real for alias, real in ties if alias not in specs and real in specs}
    return ModelView(name, *frozen, layers, architecture.rename_layer, files, tied)


def run_layout(op: Op, params: Any, models: Iterable[ModelView]) -> Layout:
    """Return what the layout op `op` makes of `models`, after checking that everything it takes exists.

    `params` is an instance of the op's parameters or a mapping of them; the base comes first. Raises what the op
    raises, and PlanError for a tensor or rows that no model has.
    """
    if op.split_of(params) is not Split.LAYOUT:
        raise PlanError(f"`{op.name}` is no layout op; run it with run_op")
    known = {model.name: model for model in models}
    given = params if isinstance(params, op.params) else op.params.model_validate(params)
    layout: Layout = op.implementation(known, given)
    for name, piece in layout.tensors.items():
        for take in _takes(piece):
            _check(name, take, known)
    return layout


def _takes(piece: Piece) -> Iterator[Take]:
    """Yield all that a piece takes."""
    match piece:
        case Take():
            yield piece
        case Stack() | Call():
            for part in piece.parts:
                yield from _takes(part)


def _check(name: str, take: Take, known: Mapping[str, ModelView]) -> None:
    """Refuse a tensor or rows that no model has."""
    model = known.get(take.model)
    tensor = model.tensors.get(model.tied.get(take.name, take.name)) if model else None
    if tensor is None:
        raise PlanError(f"{name}: takes {take.name}, which `{take.model}` does not have; mend the op")
    shape = tensor.spec.shape
    if take.rows is not None and not 0 <= take.rows[0] < take.rows[1] <= (shape or (1,))[0]:
        raise PlanError(f"{name}: takes rows {take.rows} of {shape}; mend the op")
