"""Which changes of each model count, and by how many models an element is changed. RAM and RAM+ share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field

from surgery.ops import BASE, Chunk, Params, Reduce, Scan, Signature
from surgery.scalars import Scalar
from surgery_merge._common import subtract

if TYPE_CHECKING:
    from torch import Tensor

# `epsilon: relative`: what is below this share of the root mean square of a model's delta is taken for noise.
RELATIVE: Final = 0.01

Epsilon = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["relative"]


class Active(Params):
    """Parameters that merge.ram and merge.ramplus have in common."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of the merged delta."""

    epsilon: Epsilon = 1e-5
    """|τ| above this counts as a change; `relative`: above 1 % of the root mean square of the model's delta."""


class Cutoffs(Reduce):
    """Finds each model's epsilon, where it is relative to the delta's size."""

    def __call__(self, x: Chunk, p: Active) -> Tensor:
        """Return the result on a range where nothing is gathered."""
        return self.apply(x, p, None)

    def scan(self, signature: Signature, p: Any, found: Any, done: int) -> Scan | None:
        """Read everything once if epsilons depend on the deltas."""
        return Scan.ALL if p.epsilon == "relative" and found is None else None

    def gather(self, x: Chunk, p: Any, found: Any) -> Any:
        """Return each model's Σ τ² over a block."""
        from surgery.math.reduce import squared_norm

        delta = x.scratch(0)
        return [[squared_norm(subtract(x, index, delta))] for index in range(len(x.models))]

    def fold(self, total: Any, part: Any) -> Any:
        """Collect the blocks' sums."""
        for mine, other in zip(total, part, strict=True):
            mine += other
        return total

    def solve(self, signature: Signature, p: Any, total: Any, found: Any) -> Any:
        """Return each model's epsilon."""
        from surgery.math.reduce import exact_sum

        return [RELATIVE * (exact_sum(squares) / signature.numel) ** 0.5 for squares in total]


def cutoffs(x: Chunk, p: Active, found: list[float] | None) -> list[float]:
    """Return each model's epsilon."""
    return found or [p.epsilon if isinstance(p.epsilon, float) else 0.0] * len(x.models)


def changes(x: Chunk, index: int, epsilon: float, out: Tensor) -> Tensor:
    """Fill `out` with a model's delta, 0 where it does not count."""
    import torch

    subtract(x, index, out)
    return torch.hardshrink(out, epsilon, out=out) if epsilon > 0 else out


def count(x: Chunk, epsilons: list[float], out: Tensor) -> Tensor:
    """Fill `out`, not scratch buffer 0 or 1, with the number of models that change each element."""
    import torch

    out.zero_()
    delta, active = x.scratch(0), x.scratch(1)
    for index, epsilon in enumerate(epsilons):
        out.add_(torch.ne(changes(x, index, epsilon, delta), 0, out=active))
    return out


def same(signature: Signature, p: Active) -> int | None:
    """Return the base when nothing is added, or the only model when all of it is."""
    if p.lambda_ == 0 or not signature.first.numel:
        return BASE
    return 0 if len(signature.models) == 1 and p.lambda_ == 1 and p.epsilon == 0 else None
