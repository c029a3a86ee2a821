"""The op behind `stitch.transplant_tokenizer`: rows for tokens that a model lacks. Called by that layout op only."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from surgery.ops import Chunk, Params, Signature, Split, op
from surgery.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor


class Combination(Params):
    """How rows of one model become combinations of `k` rows, to be made of another model's."""

    method: Literal["omp", "common_interpolation"]
    k: int
    metric: Literal["euclidean", "cosine"]
    weights: Literal["distance", "barycentric", "least_squares"]


def _made(signature: Signature, p: Combination) -> TensorSpec:
    """Return the spec of the rows that are made: as many as there are to be made, as wide as the model's."""
    _, missing, rows = signature.models
    return TensorSpec(signature.name, (missing.shape[0], *rows.shape[1:]), rows.dtype)


def _workspace(signature: Signature, p: Combination) -> int:
    """Return what a batch takes, float64 copies of its parts included, and the rows while they are put together.

    The number repeats `BATCH_BYTES`, whose module imports torch.
    """
    return 4 * (64 << 20) + 8 * _made(signature, p).numel


@op(
    "stitch.row_transplant",
    split=Split.TENSOR,
    params=Combination,
    models=3,
    ordered=True,
    infer=_made,
    workspace=_workspace,
)
def rows_of(x: Chunk, p: Combination) -> Tensor:
    """Rows for tokens that a model lacks: what they are among the other's common tokens, of the model's own rows."""
    from surgery_stitch._interpolate import nearest, pursue, transplanted

    common, missing, own = x.models
    choose: Any = pursue if p.method == "omp" else partial(nearest, metric=p.metric, weights=p.weights)
    return transplanted(missing, common, own, p.k, choose)
