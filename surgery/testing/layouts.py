"""Layout ops without an engine: models made of names and shapes, and what an op makes of them. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from surgery.architecture import Architecture
from surgery.errors import PlanError
from surgery.ops import Layout, ModelView, Op, Split
from surgery.tensors import TensorInfo, TensorSpec, depth_of


def view(
    name: str, specs: Mapping[str, TensorSpec], config: Mapping[str, Any], architecture: Architecture
) -> ModelView:
    """Return what a layout op sees of a model; roles come from `architecture`, layers from the names."""
    roles = {tensor: architecture.role_of(tensor) for tensor in specs}
    layers = 1 + max((role.layer for role in roles.values() if role.layer is not None), default=-1)
    tensors = {
        tensor: TensorInfo(spec, roles[tensor], depth_of(roles[tensor], layers))
        for tensor, spec in specs.items()
    }
    frozen = MappingProxyType(tensors), MappingProxyType(dict(config))
    return ModelView(name, *frozen, layers, architecture.rename_layer)


def run_layout(op: Op, params: Any, models: Iterable[ModelView]) -> Layout:
    """Return what the layout op `op` makes of `models`, after checking that everything it takes exists.

    `params` is an instance of the op's parameters or a mapping of them. Raises what the op raises, and
    PlanError for a tensor or rows that no model has.
    """
    if op.split_of(params) is not Split.LAYOUT:
        raise PlanError(f"`{op.name}` is no layout op; run it with run_op")
    known = {model.name: model for model in models}
    given = params if isinstance(params, op.params) else op.params.model_validate(params)
    layout: Layout = op.implementation(known, given)
    for name, take in layout.tensors.items():
        spec = known[take.model].tensors[take.name].spec if _has(known, take.model, take.name) else None
        if spec is None:
            raise PlanError(f"{name}: takes {take.name}, which `{take.model}` does not have; mend the op")
        if take.rows is not None and not 0 <= take.rows[0] < take.rows[1] <= (spec.shape or (1,))[0]:
            raise PlanError(f"{name}: takes rows {take.rows} of {spec.shape}; mend the op")
    return layout


def _has(known: Mapping[str, ModelView], model: str, name: str) -> bool:
    return model in known and name in known[model].tensors
