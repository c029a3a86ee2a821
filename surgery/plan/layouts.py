"""A layout step becomes a virtual model: tensors under new names, a rewritten config, no bytes moved."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from surgery.errors import PlanError, did_you_mean
from surgery.ops import Layout, ModelView, Take
from surgery.plan.nodes import Emitted, Node, Rows
from surgery.plan.problems import Problems
from surgery.plan.virtual import VirtualModel, annotate, layer_count, renamed
from surgery.recipe.resolve_ops import ResolvedStep
from surgery.tensors import TensorSpec


def expand_layout(
    step: ResolvedStep, models: Sequence[VirtualModel], problems: Problems
) -> VirtualModel | None:
    """Return the virtual model that a layout op makes; None after noting what is wrong."""
    path = ("steps", step.name)
    try:
        layout: Layout = step.op.implementation({model.name: _view(model) for model in models}, step.params)
    except PlanError as error:
        for finding in error.findings:
            problems.add(path, finding.what)
        return None
    known = {model.name: model for model in models}
    nodes: dict[str, Node] = {}
    specs: dict[str, TensorSpec] = {}
    for name, take in layout.tensors.items():
        placed = _take(known, name, take)
        if isinstance(placed, str):
            problems.add(path, placed)
            return None
        nodes[name], specs[name] = placed
    donor = known.get(layout.donor or models[0].name)
    if donor is None:
        problems.add(path, f"`{step.op.name}` names `{layout.donor}` as donor, which is none of its models")
        return None
    infos = annotate(specs, donor.architecture)
    tied = {alias: name for alias, name in donor.tied.items() if alias not in infos and name in infos}
    changes = {"tensors": infos, "nodes": nodes, "config": dict(layout.config), "layers": layer_count(infos)}
    return renamed(donor, step.name, **changes, tied=tied)


def _view(model: VirtualModel) -> ModelView:
    return ModelView(
        name=model.name,
        tensors=MappingProxyType(model.tensors),
        config=MappingProxyType(dict(model.config)),
        layers=model.layers,
        rename_layer=model.architecture.rename_layer,
    )


def _take(known: dict[str, VirtualModel], name: str, take: Take) -> tuple[Node, TensorSpec] | str:
    """Return the node and spec of one output tensor, or what is wrong with it."""
    model = known.get(take.model)
    node = model.node(take.name) if model else None
    info = model.info(take.name) if model else None
    if model is None or node is None or info is None:
        near = did_you_mean(take.name, model.tensors) if model else did_you_mean(take.model, known)
        return f"{name}: takes {take.name} of `{take.model}`, which has no such tensor{near}"
    spec = info.spec
    if take.rows is None:
        return node, spec.with_(name=name)
    if isinstance(node, Emitted):
        return f"{name}: takes rows of {take.name}, which step {node.call.step} stores as a whole; cut before that step"
    first, last = take.rows
    if not (spec.shape and 0 <= first < last <= spec.shape[0]):
        return f"{name}: takes rows {first} to {last} of {take.name}, got shape {spec.shape}; give rows inside it"
    cut = TensorSpec(name, (last - first, *spec.shape[1:]), spec.dtype)
    return Rows(node, first * spec.row, cut), cut
