"""stitch.upcycle: a dense model becomes a mixture of copies of its own feed-forward parts."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from surgery.ops import Layout, ModelView, Params, layout_op
from surgery_stitch._common import only
from surgery_stitch._moe import Made, Mixture, Part, assemble, made_router
from surgery_stitch._moe_families import FamilyName, family_for


class Upcycle(Params):
    """Parameters of stitch.upcycle."""

    experts: int = Field(default=8, ge=1)
    """How many copies."""

    experts_per_token: int = Field(default=2, ge=1)
    """How many experts each token goes through."""

    layout: FamilyName | None = None
    """What is made; by default `mixtral` of llama and mistral, `qwen2_moe` of qwen2, `qwen3_moe` of qwen3."""

    gate: Made = "uniform_random"
    """What routers are: `uniform_random` within ±√(1/D), `random` N(0, 1), or `zero`."""

    noise_scale: float = Field(default=0.0, ge=0)
    """The deviation of normal numbers that are added to the experts' matrices, others for each expert."""

    shared_scale: float | None = None
    """Another copy as shared expert, its down projection multiplied by this; 0 keeps what the model computes."""


@layout_op(
    "stitch.upcycle",
    params=Upcycle,
    models=1,
    cite="Komatsuzaki et al. 2023, Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints, "
    "arXiv:2212.05055",
)
def upcycle(models: Mapping[str, ModelView], p: Upcycle) -> Layout:
    """Copy a model's MLP into every expert of a mixture, which then computes what the model does.

    Exactly so without noise and shared expert, for the weights of the chosen experts sum to one. Routers [E, D] are
    new. Raises PlanError for a model that cannot become the layout.
    """
    base = only(models)
    family = family_for(base.name, base.config, p.layout)
    experts = [Part(base, p.noise_scale)] * p.experts
    shared = [] if p.shared_scale is None else [Part(base, 0.0, p.shared_scale)]
    router = made_router(base, p.gate)
    return assemble(Mixture(family, base, experts, shared, p.experts_per_token, router, "shared_scale"))
