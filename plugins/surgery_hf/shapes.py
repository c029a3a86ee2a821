"""Roles that shapes tell where names say nothing: norms, the two sides of an MLP, an output like the embedding."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace

from surgery.tensors import Role, TensorSpec


def told_by_shapes(roles: Mapping[str, Role], specs: Mapping[str, TensorSpec]) -> dict[str, Role]:
    """Return roles for tensors whose role is `other`, as far as shapes tell one.

    A vector called `weight` scales something: `norm`. In a layer of width h whose matrices of unknown role are
    [m, h] and one [h, m], m > h, the former lead up and the latter down (a fused query, key and value has no such
    counterpart). The only matrix outside the layers that is shaped like the embedding is the head, if there is none.
    """
    unknown = {name for name, role in roles.items() if role.kind == "other"}
    norms = {name for name in unknown if _is_weight(name) and len(specs[name].shape) == 1}
    norms |= {name for name in unknown if f"{name.removesuffix('.bias')}.weight" in norms}
    found = {name: "norm" for name in norms if roles[name].layer is not None}
    layers: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, role in roles.items():
        if role.place is not None and role.expert is None and _is_matrix(name, specs):
            layers[role.place].append(name)
    for names in layers.values():
        found |= _sides(names, unknown, specs)
    found |= _head(roles, unknown, specs)
    return {name: replace(roles[name], kind=kind) for name, kind in found.items()}


def _is_weight(name: str) -> bool:
    return name.rpartition(".")[2] == "weight"


def _is_matrix(name: str, specs: Mapping[str, TensorSpec]) -> bool:
    return _is_weight(name) and len(specs[name].shape) == 2


def _sides(names: list[str], unknown: set[str], specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Return which matrices of one layer lead from its width up, and which one back down."""
    (width, _), *_ = Counter(size for name in names for size in specs[name].shape).most_common(1)
    shapes = {name: specs[name].shape for name in names if name in unknown}
    up = {name: out for name, (out, inner) in shapes.items() if inner == width and out > width}
    down = {name: inner for name, (out, inner) in shapes.items() if out == width and inner > width}
    if len(down) != 1 or not up or {*up.values()} != {*down.values()}:
        return {}
    return dict.fromkeys(up, "mlp.up") | dict.fromkeys(down, "mlp.down")


def _head(roles: Mapping[str, Role], unknown: set[str], specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    embeddings = [name for name, role in roles.items() if role.kind == "embed"]
    if len(embeddings) != 1 or any(role.kind == "head" for role in roles.values()):
        return {}
    shape = specs[embeddings[0]].shape
    alike = [name for name in unknown if roles[name].layer is None and specs[name].shape == shape]
    return {alike[0]: "head"} if len(alike) == 1 else {}
