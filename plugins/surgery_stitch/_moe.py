"""A mixture of experts out of dense models: attention, norms and embeddings of one, feed-forward parts of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from surgery.errors import Finding, PlanError
from surgery.ops import Call, Layout, ModelView, NoParams, Piece, Stack, Take
from surgery_stitch._config import layer_count
from surgery_stitch._moe_config import mixture_config
from surgery_stitch._moe_families import MATRICES, QKV_BIASES, Family
from surgery_stitch._moe_ops import Draws, Expert, Size, draws, expert, no_bias
from surgery_stitch._rows import zero
from surgery_stitch._settings import check_settings, check_shapes

Made = Literal["zero", "random", "uniform_random"]

EMBED: Final = "model.embed_tokens.weight"
_NORM: Final = "model.norm.weight"
_OUTSIDE: Final = (EMBED, _NORM, "lm_head.weight")
# What old files hold of no consequence: rotary frequencies, which follow from config.json.
_BUFFERS: Final = ("self_attn.rotary_emb.inv_freq",)


@dataclass(frozen=True, slots=True)
class Part:
    """Where an expert comes from: a model, noise on all its matrices, a factor on the last of them."""

    view: ModelView
    noise: float = 0.0
    residual: float = 1.0


# (the layer, how many rows, whether it is the shared expert's) -> the layer's router, [rows, D]
Router = Callable[[int, int, bool], Piece]


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a mixture of experts is to be made of. `router` makes the router of each layer anew."""

    family: Family
    base: ModelView
    experts: Sequence[Part]
    shared: Sequence[Part]
    per_token: int
    router: Router
    shared_key: str = "shared_expert"  # what a recipe says shared experts by


def router_like(base: ModelView, rows: int) -> Piece:
    """Return something of a router's shape [rows, D] and dtype, that of the embeddings."""
    return Stack([Take(base.name, EMBED, (0, 1))], [0] * rows)


def made_router(base: ModelView, gate: Made) -> Router:
    """Return what makes routers that need no prompts: zeros, N(0, 1), or uniform numbers within ±√(1/D)."""

    def router(layer: int, rows: int, is_shared: bool) -> Piece:
        like = router_like(base, rows)
        if gate == "zero":
            return Call(zero, [like], NoParams())
        return Call(draws, [like], Draws(kind="normal" if gate == "random" else "uniform"))

    return router


def assemble(mixture: Mixture) -> Layout:
    """Return the mixture. Raises PlanError with what does not fit together."""
    base, family = mixture.base, mixture.family
    _check(mixture)
    config = mixture_config(family, base, len(mixture.experts), mixture.per_token, len(mixture.shared))
    tensors: dict[str, Piece] = {name: Take(base.name, name) for name in _OUTSIDE if name in base.tensors}
    for layer in range(layer_count(base)):
        at = _at(layer)
        tensors |= {
            at + name: Take(base.name, at + name) for name in sorted(family.kept) if at + name in base.tensors
        }
        tensors |= _biases(family, base, at)
        block = f"{at}{family.block}."
        tensors[f"{block}gate.weight"] = mixture.router(layer, len(mixture.experts), False)
        for e, part in enumerate(mixture.experts):
            tensors |= _expert(part, at, f"{block}experts.{e}.", family.matrices)
        for part in mixture.shared:
            tensors |= _expert(part, at, f"{block}{family.shared_block}.", MATRICES)
            if family.shared_router:
                tensors[f"{block}{family.shared_router}.weight"] = mixture.router(layer, 1, True)
    return Layout(tensors, config, donor=base.name)


def _check(mixture: Mixture) -> None:
    """Raise PlanError where numbers or models do not fit together."""
    count, family, base = len(mixture.experts), mixture.family, mixture.base
    findings = []
    if not 1 <= mixture.per_token <= count:
        findings.append(
            Finding(f"experts_per_token: 1 to {count}, the number of experts, got {mixture.per_token}")
        )
    least, most = family.shared
    if not least <= len(mixture.shared) <= most:
        wanted = "needs a shared expert, got none; add" if least else "has no shared expert, got one; remove"
        findings.append(Finding(f"`layout: {family.name}` {wanted} `{mixture.shared_key}`"))
    if findings:
        raise PlanError(findings)
    views = {part.view.name: part.view for part in (*mixture.experts, *mixture.shared)}
    used = [base, *(view for name, view in views.items() if name != base.name)]
    check_settings(used)
    check_shapes(used)
    _check_depths(used)
    _check_tensors(family, base)


def _check_depths(used: Sequence[ModelView]) -> None:
    counts = {view.name: layer_count(view) for view in used}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"`{name}` {count}" for name, count in counts.items())
        raise PlanError(f"the models have different numbers of layers: {listed}; give models of one size")


def _check_tensors(family: Family, base: ModelView) -> None:
    """Refuse a base with tensors that the mixture has no place for, or without those that it needs."""
    known = {*family.kept, *_BUFFERS, *(f"mlp.{name}.weight" for name in MATRICES)}
    within = {_at(layer) + name for layer in range(layer_count(base)) for name in known}
    unknown = next((name for name in base.tensors if name not in within and name not in _OUTSIDE), None)
    if unknown is not None:
        raise PlanError(
            f"`{base.name}` has {unknown}, which `layout: {family.name}` has no place for; "
            "give causal language models that their class in transformers describes"
        )
    if EMBED not in base.tensors:
        raise PlanError(f"`{base.name}` has no {EMBED}; give a causal language model as base")


def _at(layer: int) -> str:
    return f"model.layers.{layer}."


def _expert(part: Part, at: str, into: str, names: Sequence[str]) -> dict[str, Piece]:
    """Return the matrices of an expert under their new names; the last one writes to the residual stream."""
    made: dict[str, Piece] = {}
    for old, new in zip(MATRICES, names, strict=True):
        take = Take(part.view.name, f"{at}mlp.{old}.weight")
        scale = part.residual if old == MATRICES[-1] else 1.0
        plain = part.noise == 0 and scale == 1
        made[f"{into}{new}.weight"] = (
            take if plain else Call(expert, [take], Expert(noise=part.noise, scale=scale))
        )
    return made


def _biases(family: Family, base: ModelView, at: str) -> dict[str, Piece]:
    """Return zeros where the mixture's attention has biases and the base's has none."""
    made: dict[str, Piece] = {}
    for name in QKV_BIASES if family.biases else ():
        weight = base.tensors.get(at + name.replace("bias", "weight"))
        if at + name not in base.tensors and weight is not None:
            made[at + name] = Call(no_bias, [Take(base.name, _NORM)], Size(size=weight.spec.shape[0]))
    return made
