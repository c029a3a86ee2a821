"""stitch.moe: a mixture of experts whose experts are the feed-forward parts of dense models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from surgery.errors import Finding, PlanError
from surgery.ops import Call, Layout, ModelView, Params, Piece, Reading, Stack, Take, layout_op
from surgery_stitch._common import named
from surgery_stitch._moe import EMBED, Mixture, Part, Router, assemble, made_router, router_like
from surgery_stitch._moe_families import FamilyName, family_for
from surgery_stitch._moe_ops import Prompts, Sides, router_of_prompts, router_of_states
from surgery_stitch._prompts import token_ids

Gate = Literal["hidden", "hidden_avg", "cheap_embed", "random", "uniform_random", "zero"]


class Source(Params):
    """Where an expert comes from."""

    model: str
    """The model whose feed-forward parts it has: the base, or one of the step's models."""

    positive_prompts: list[str] = Field(default=[])
    """Texts that this expert is for; `hidden`, `hidden_avg` and `cheap_embed` need some."""

    negative_prompts: list[str] = Field(default=[])
    """Texts that it is not for."""

    noise_scale: float = Field(default=0.0, ge=0)
    """The deviation of normal numbers that are added to its matrices."""

    residual_scale: float = 1.0
    """What its down projection is multiplied by, after the noise."""


class Moe(Params):
    """Parameters of stitch.moe."""

    experts: list[str | Source] = Field(default=[])
    """The experts in order, each a model or `{model: ..., positive_prompts: [...]}`; by default the step's models."""

    shared_expert: str | Source | None = None
    """An expert that every token goes through: one in `qwen2_moe`, none or one in `deepseek`."""

    layout: FamilyName | None = None
    """What is made; by default `mixtral` of llama and mistral, `qwen2_moe` of qwen2, `qwen3_moe` of qwen3."""

    experts_per_token: int = Field(default=2, ge=1)
    """How many experts each token goes through."""

    gate: Gate
    """What routers are: of prompts, by the base's `hidden` states at their last tokens, by the mean of all
    (`hidden_avg`) or by embeddings (`cheap_embed`); else `random` N(0, 1), `uniform_random` in ±√(1/D), or `zero`."""


@layout_op(
    "stitch.moe",
    params=Moe,
    base="required",
    cite="Goddard et al. 2024, Arcee's MergeKit: A Toolkit for Merging Large Language Models, arXiv:2403.13257 "
    "(mergekit-moe)",
)
def moe(models: Mapping[str, ModelView], p: Moe) -> Layout:
    """Make a mixture of experts: attention, norms and embeddings of the base, an expert of each model's MLP.

    Matrices [I, D] and [D, I] keep their bytes unless noise or a scale is asked for; routers [E, D] are new, in the
    dtype of the embeddings. The weights of the chosen experts sum to one, so that equal experts are the dense model.
    Raises PlanError for models of different types, sizes or settings, and for prompts that are missing or the same.
    """
    base = next(iter(models.values()))
    sources = [_source(each) for each in p.experts or [name for name in models if name != base.name]]
    shared = [] if p.shared_expert is None else [_source(p.shared_expert)]
    _check_sources(models, base, sources, shared)
    family = family_for(base.name, base.config, p.layout)
    mixture = Mixture(
        family,
        base,
        [_part(models, each) for each in sources],
        [_part(models, each) for each in shared],
        p.experts_per_token,
        _router(base, p.gate, sources, shared if family.shared_router else []),
    )
    return assemble(mixture)


def _source(written: str | Source) -> Source:
    return Source(model=written) if isinstance(written, str) else written


def _part(models: Mapping[str, ModelView], source: Source) -> Part:
    return Part(named(models, source.model), source.noise_scale, source.residual_scale)


def _check_sources(
    models: Mapping[str, ModelView], base: ModelView, experts: Sequence[Source], shared: Sequence[Source]
) -> None:
    """Refuse models that nothing is taken of, and experts that are all the same."""
    used = {named(models, each.model).name for each in (*experts, *shared)}
    idle = next((name for name in models if name not in used and name != base.name), None)
    if idle is not None:
        raise PlanError(
            f"`{idle}` is one of the step's models and no expert; add it to `experts` or remove it"
        )
    if len({(each.model, each.noise_scale, each.residual_scale) for each in experts}) > 1:
        return
    if len(experts) > 1 and not experts[0].noise_scale:
        raise PlanError(
            f"every expert is `{experts[0].model}`; give different models, or make copies of one with `stitch.upcycle`"
        )


def _router(base: ModelView, gate: Gate, experts: Sequence[Source], shared: Sequence[Source]) -> Router:
    match gate:
        case "random" | "uniform_random" | "zero":
            return made_router(base, gate)
        case "hidden" | "hidden_avg":
            _check_prompts(gate, experts, shared)
            return _of_states(base, [*experts, *shared], len(experts), mean=gate == "hidden_avg")
    _check_prompts(gate, experts, shared)
    routed, gated = _of_prompts(base, experts), _of_prompts(base, shared) if shared else None

    def router(layer: int, rows: int, is_shared: bool) -> Piece:
        return gated if is_shared and gated is not None else routed  # the same one in all layers

    return router


def _check_prompts(gate: Gate, experts: Sequence[Source], shared: Sequence[Source]) -> None:
    findings = []
    places = [
        *((f"experts[{e}]", each) for e, each in enumerate(experts)),
        *(("shared_expert", s) for s in shared),
    ]
    for where, each in places:
        if not any(each.positive_prompts):
            findings.append(
                Finding(
                    f"{where}: `{each.model}` has no `positive_prompts`, which `gate: {gate}` needs; add some"
                )
            )
        elif sorted(each.positive_prompts) == sorted(each.negative_prompts):
            findings.append(
                Finding(f"{where}: positive and negative prompts are the same; change one of them")
            )
    said = {(tuple(each.positive_prompts), tuple(each.negative_prompts)) for each in experts}
    if not findings and len(said) == 1 and len(experts) > 1:
        findings.append(
            Finding("all experts have the same prompts, so that no router can tell them apart; vary them")
        )
    if findings:
        raise PlanError(findings)


def _of_states(base: ModelView, sources: Sequence[Source], experts: int, *, mean: bool) -> Router:
    """Return what makes routers from the states that the base has of prompts, before each layer."""
    sides = [side for each in sources for side in (each.positive_prompts, each.negative_prompts)]
    prompts = tuple(map(tuple, token_ids(base, [[text] for side in sides for text in side])))
    counts = [len(side) for side in sides]
    pairs = tuple(zip(counts[::2], counts[1::2], strict=True))

    def router(layer: int, rows: int, is_shared: bool) -> Piece:
        told = Sides(prompts=pairs, first=experts if is_shared else 0, mean=mean)
        return Call(router_of_states, [router_like(base, rows)], told, Reading(base.name, layer, prompts))

    return router


def _of_prompts(base: ModelView, sources: Sequence[Source]) -> Piece:
    """Return a router from the base's embeddings of prompts, a row for each source."""
    texts = [side for each in sources for side in (each.positive_prompts, each.negative_prompts)]
    ids = token_ids(base, texts)
    for each, positive in zip(sources, ids[::2], strict=True):
        if not positive:
            raise PlanError(f"the positive prompts of `{each.model}` have no token; write some text")
    counts = [len(side) for side in ids]
    rows = Stack([Take(base.name, EMBED)], [i for side in ids for i in side])
    tokens = tuple(zip(counts[::2], counts[1::2], strict=True))
    return Call(router_of_prompts, [rows], Prompts(tokens=tokens))
