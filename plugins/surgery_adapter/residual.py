"""adapter.residual: what is left of a base for an adapter that begins with a part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from surgery.ops import Chunk, Signature, Split, op
from surgery.tensors import TensorSpec
from surgery_adapter._begin import Begin, begin_bytes, scale_of, stored_factors
from surgery_adapter._kinds import has_factors, rank_of, transposed

if TYPE_CHECKING:
    from torch import Tensor


class Residual(Begin):
    """Parameters of adapter.residual; those of the step that makes the adapter."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.method == "zero":
            raise ValueError(
                "`method: zero` leaves the base as it is; name the method of the `adapter.init` step"
            )
        return self


def _whole(signature: Signature, p: Residual) -> int | None:
    return None if has_factors(signature, p) else 0


def _exact(signature: Signature, p: Residual) -> TensorSpec:
    """Return float32: fewer bits of W - s·B·A are another function."""
    spec = signature.first
    return spec if spec.dtype == "F64" else spec.with_(dtype="F32")


def _workspace(signature: Signature, p: Residual) -> int:
    """Return the larger of what finding the factors takes, and the product, the weight and the result."""
    rows, columns = signature.first.shape
    factors = 8 * rank_of(signature, p) * (rows + columns)
    return max(begin_bytes(signature, p), 8 * 3 * rows * columns + 2 * factors)


@op(
    "adapter.residual",
    split=Split.TENSOR,
    params=Residual,
    models=1,
    simplify=_whole,
    infer=_exact,
    workspace=_workspace,
    note="base and adapter together are the model only while the base keeps its bits; write it with `dtype: float32`",
    cite=(
        "Meng et al. 2024, PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models, "
        "arXiv:2404.02948"
    ),
)
def residual(x: Chunk, p: Residual) -> Tensor:
    """Take out of a base what an adapter begins with: W - s·B·A, of the factors as `adapter.init` stores them.

    With the same parameters as that step W_res + s·B·A = W, to the rounding of W_res alone: 2⁻²⁴ of its largest numbers
    in float32. The product is made and subtracted in float64. Tensors without factors are copied.
    """
    import torch

    W = x.models[0]
    A, B = stored_factors(W, x.signature, p)
    part = (B @ A).mul_(scale_of(p))
    left = W.to(torch.float64, copy=True).sub_(part.T if transposed(x.signature, p) else part)
    return left.to(W.dtype)
