"""adapter.init: an adapter to be trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from surgery.ops import Chunk, Description, Made, Part, Signature, Space, Split, op
from surgery_adapter._begin import Begin, begin_bytes, scale_of, stored_factors
from surgery_adapter._describe import describe
from surgery_adapter._kinds import Kind, has_factors, kind_of, pair

if TYPE_CHECKING:
    from torch import Tensor


class Init(Begin):
    """Parameters of adapter.init."""

    base_model: str | None = None
    """What the adapter says its base is called: by default the model's source; must be given unless `method: zero`."""

    @model_validator(mode="after")
    def _residual(self) -> Self:
        if self.method != "zero" and self.base_model is None:
            raise ValueError(
                f"`method: {self.method}` takes a part out of the base; say in `base_model` where the result of "
                "`adapter.residual` will be"
            )
        return self


def _parts(signature: Signature, p: Init) -> Sequence[Part]:
    return [Part(spec, rows=0) for spec in pair(signature, p)]


def _left_out(signature: Signature, p: Init) -> int | None:
    return None if has_factors(signature, p) else 0


def _workspace(signature: Signature, p: Init) -> int:
    """Return what finding the factors takes, and draws for a tensor."""
    return begin_bytes(signature, p) + 8 * signature.numel


def _described(made: Made, p: Init) -> Description:
    return describe(made, p, scale_of(p))


@op(
    "adapter.init",
    split=Split.TENSOR,
    params=Init,
    models=1,
    gives=Space.FACTORS,
    emits=_parts,
    describe=_described,
    simplify=_left_out,
    rest="drop",
    workspace=_workspace,
    cite=(
        "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685; "
        "Meng et al. 2024, PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models, "
        "arXiv:2404.02948; Büyükakyüz 2024, OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models, "
        "arXiv:2406.01775; Guo et al. 2025, NLoRA: Nyström-Initiated Low-Rank Adaptation for Large Language Models, "
        "arXiv:2502.14482; Shi et al. 2024, LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition for "
        "Parameter-Efficient Fine-Tuning, arXiv:2410.13618"
    ),
)
def init(x: Chunk, p: Init) -> Mapping[str, Tensor]:
    """Begin a LoRA adapter, for training elsewhere: factors of every Linear, from noise or from the weight itself.

    With `zero` it changes nothing: B is 0 and A uniform in ±1/√in, of an embedding A is 0 and B normal, as peft begins
    them. All other methods take s·B·A out of the weight, and the adapter belongs to what `adapter.residual` leaves.
    Numbers are drawn from the recipe's seed and the tensor's name; they also fill directions that a weight lacks.
    """
    from surgery_adapter._start import fresh, normal_columns

    W, (a, b) = x.models[0], pair(x.signature, p)
    A, B = stored_factors(W, x.signature, p)
    if p.method == "zero" and kind_of(x.signature, p) is Kind.EMBEDDING:
        B = normal_columns(B, lambda count, stream: _drawn(x, count, stream))
    else:
        A, B = fresh(A, B, lambda count: _drawn(x, count, 0))
    return {a.name: A.to(W.dtype), b.name: B.to(W.dtype)}


def _drawn(x: Chunk, count: int, stream: int) -> Tensor:
    """Return uniform numbers of their own; no factor has more elements than the tensor."""
    return x.uniform(stream).reshape(-1)[:count].clone()
