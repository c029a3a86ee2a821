"""adapter.merge: several adapters as one of a given rank, merged in their common core or as whole changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field

from surgery.ops import Signature, Space, Split, op
from surgery.tensors import TensorSpec
from surgery_adapter._config import described
from surgery_adapter._pairs import Pairs, Rank, Stored, Weighted, check, core_bytes, longest, rank_in, sized

if TYPE_CHECKING:
    from torch import Tensor

Density = Annotated[float, Field(gt=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Method = Literal["linear", "magnitude", "ties", "tsvm", "iso"]

# Methods that look at single entries: what comes of them depends on the basis.
_ENTRYWISE: Final = frozenset({"magnitude", "ties"})


class Merge(Stored):
    """Parameters of adapter.merge."""

    method: Method = "linear"
    """How the changes become one."""

    space: Literal["core", "knots", "dense"] = "core"
    """`core`: in a basis of all adapters' columns and rows; `knots`: of their columns; `dense`: as whole matrices."""

    rank: Rank | None = None
    """Rank of the result; by default the largest of the adapters'."""

    density: Density = 1.0
    """Share of each adapter's entries that `magnitude` and `ties` keep."""

    lambda_: Finite = Field(default=1.0, alias="lambda")
    """Factor of the merged change."""

    normalize: bool = True
    """Divide by the sum of the weights: of all, with `ties` of those that agree. `tsvm` and `iso` never do."""


def _rank(signature: Signature, p: Merge) -> int:
    return p.rank or max(rank_in(spec) for spec in signature.models)


def _sized(signature: Signature, p: Merge) -> TensorSpec:
    return sized(signature, _rank(signature, p), p)


def _check(signature: Signature, p: Merge) -> str | None:
    weights = [each.weight for each in signature.each if isinstance(each, Weighted)]
    if p.normalize and p.method in ("linear", "magnitude") and sum(map(float, weights)) == 0:
        return "weights add up to 0; set `normalize: false`"
    return check(signature, p)


def _workspace(signature: Signature, p: Merge) -> int:
    """Return one factor's share of the temporaries of its pair: bases and cores, or whole changes.

    Of a whole change [out, in] a factor knows one side; out·in <= (out² + in²)/2, half of it by each.
    """
    core, long, count = core_bytes(signature), longest(signature), len(signature.models)
    if p.space == "knots":
        return core + 8 * sum(rank_in(spec) for spec in signature.models) * long * (10 * count + 4)
    return core + (0 if p.space == "core" else 4 * long * long * (count + 10))


def merged(matrices: Sequence[Tensor], weights: Sequence[float], p: Any) -> Tensor:
    """Return one matrix of several, by the method that the parameters name."""
    from surgery_adapter import _combine

    if p.method in _ENTRYWISE:
        matrices = [_combine.trimmed(M, p.density) for M in matrices]
    if p.method == "ties":
        total = _combine.ties(matrices, weights, normalize=p.normalize)
    elif p.method == "tsvm":
        total = _combine.tsvm(matrices, weights)
    elif p.method == "iso":
        total = _combine.iso(matrices, weights)
    else:
        total = _combine.linear(matrices, weights, normalize=p.normalize)
    return total.mul_(p.lambda_)


@op(
    "adapter.merge",
    split=Split.GROUP,
    params=Merge,
    each=Weighted,
    takes=Space.FACTORS,
    gives=Space.FACTORS,
    shapes="any",
    infer=_sized,
    check=_check,
    describe=partial(described, rank_of=_rank),
    workspace=_workspace,
    cite=(
        "Panariello et al. 2025, Accurate and Efficient Low-Rank Model Merging in Core Space, arXiv:2509.17786; "
        "Stoica et al. 2024, Model merging with SVD to tie the Knots, arXiv:2410.19735; "
        "Yadav et al. 2023, TIES-Merging: Resolving Interference When Merging Models, arXiv:2306.01708"
    ),
)
class MergeOp(Pairs):
    """Merge adapters into one of a given rank, without making their whole changes.

    The changes are written as small matrices in a common basis: U·M_t·Vᵀ. `linear`, `tsvm` and `iso` give what they
    give on whole changes; `magnitude` and `ties` look at single entries, which depend on the basis: with `space: dense`
    they see those of the changes themselves, with `space: knots` those of Σ·V_tᵀ in [ΔW_1 … ΔW_T] = U·Σ·[V_1ᵀ … V_Tᵀ].
    The result is cut to `rank` by its singular values. In float64.
    """

    def combine(
        self, As: Sequence[Tensor], Bs: Sequence[Tensor], weights: Sequence[float], params: Merge
    ) -> tuple[Tensor, Tensor]:
        """Return the merged factors."""
        from surgery_adapter._core import balanced, balanced_rows, core_of, cut, knots_of

        rank = params.rank or max(len(A) for A in As)
        if params.space == "core":
            found = core_of(As, Bs)
            return balanced(merged(found.cores, weights, params), found.U, found.V, rank)
        if params.space == "knots":
            U, parts = knots_of(As, Bs)
            return balanced_rows(merged(parts, weights, params), U, rank)
        whole = merged([B.double() @ A.double() for A, B in zip(As, Bs, strict=True)], weights, params)
        return cut(whole, rank)
