"""adapter.expand: Compacter's layers as plain Linears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from surgery.errors import Finding, PlanError
from surgery.ops import Call, Layout, ModelView, NoParams, Piece, Take, layout_op
from surgery_adapter._phm import Phm, dense_shape, phm, product_shape

_RULE: Final = "phm_rule"
_BIAS: Final = "b"
_OWN: Final = (_RULE, f"{_RULE}_left", f"{_RULE}_right", "W", "W_left", "W_right", _BIAS)
_SHARED: Final = tuple(f"W_{side}{end}" for side in ("down", "up") for end in ("", "_left", "_right"))


@layout_op(
    "adapter.expand",
    params=NoParams,
    models=1,
    cite=(
        "Karimi Mahabadi, Henderson, Ruder 2021, Compacter: Efficient Low-Rank Hypercomplex Adapter Layers, "
        "arXiv:2106.04647"
    ),
)
def expand(models: Mapping[str, ModelView], p: NoParams) -> Layout:
    """Turn a model's Compacter layers into Linears: weight = (Σ Aᵢ ⊗ Wᵢ)ᵀ, bias = b, under the same module's name.

    Aᵢ is `phm_rule`, or `phm_rule_left`·`phm_rule_right`; Wᵢ `W`, or `W_left`·`W_right`. What a module lacks is taken
    from the nearest module above it that has it, as layers share them; `W_down` and `W_up` of a model are those of all
    modules called `down_sampler` and `up_sampler`. Between two such layers stands a nonlinearity, so that they stay
    layers: nothing is folded into the model's other weights, which are copied. Products are computed in float64.
    """
    (model,) = models.values()
    names = {*model.tensors, *model.tied}
    made: dict[str, Piece] = {}
    problems: list[str] = []
    for module in sorted({name.rpartition(".")[0] for name in names if name.rpartition(".")[2] in _OWN}):
        rule, weight = _rule(module, names), _weight(module, names)
        if not rule or not weight:
            continue
        what = _problem(model, module, rule, weight)
        if what:
            problems.append(what)
        parts = [Take(model.name, name) for name in (*rule, *weight)]
        made[f"{module}.weight"] = Call(phm, parts, Phm(rule=len(rule) > 1, weight=len(weight) > 1))
        if f"{module}.{_BIAS}" in names:
            made[f"{module}.bias"] = Take(model.name, f"{module}.{_BIAS}")
    if problems:
        raise PlanError([Finding(what) for what in problems])
    if not made:
        raise PlanError(
            f"`{model.name}` has no module with `{_RULE}` and `W`; give it a model that Compacter trained"
        )
    kept = {name: Take(model.name, name) for name in model.tensors if not _is_part(name)}
    return Layout({**kept, **made}, model.config)


def _is_part(name: str) -> bool:
    module, _, last = name.rpartition(".")
    return last in _OWN or (not module and last in _SHARED)


def _rule(module: str, names: set[str]) -> tuple[str, ...]:
    """Return the names of a module's Aᵢ, its own or those of a module above it; () if there are none."""
    while True:
        found = _whole_or_factors(module, _RULE, names)
        if found or not module:
            return found
        module = module.rpartition(".")[0]


def _weight(module: str, names: set[str]) -> tuple[str, ...]:
    """Return the names of a module's Wᵢ; those of the model for samplers that have none of their own."""
    found = _whole_or_factors(module, "W", names)
    side = module.rpartition(".")[2].partition("_sampler")[0]
    return found or (_whole_or_factors("", f"W_{side}", names) if side in ("down", "up") else ())


def _whole_or_factors(module: str, name: str, names: set[str]) -> tuple[str, ...]:
    at = f"{module}.{name}" if module else name
    if at in names:
        return (at,)
    both = f"{at}_left", f"{at}_right"
    return both if all(one in names for one in both) else ()


def _problem(model: ModelView, module: str, rule: Sequence[str], weight: Sequence[str]) -> str | None:
    """Return what does not fit, or None."""
    shapes = {name: model.tensors[model.tied.get(name, name)].spec.shape for name in (*rule, *weight)}
    found = dense_shape(*(product_shape([shapes[name] for name in names]) for names in (rule, weight)))
    taken = [other for other in (f"{module}.weight", f"{module}.bias") if other in model.tensors]
    if found is None:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        return f"{module}: no sum of Kronecker products of {told}; the file is damaged"
    return f"{module}: has `{taken[0]}` beside `{rule[0]}`; rename one of them" if taken else None
