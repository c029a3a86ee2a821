"""merge.fisher: the average of models, each weight counted by how much its model's loss depends on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from surgery.errors import OpError
from surgery.ops import Chunk, Companion, Params, Reduce, Signature, Split, op
from surgery.scalars import Schedulable
from surgery_merge._common import mean_of, weights_of
from surgery_merge._norms import fold, sums
from surgery_merge._trim import Scope, pool_of

if TYPE_CHECKING:
    from torch import Tensor

NotNegative = Annotated[float, Schedulable(ge=0)]
FISHER = "fisher"


class Fisher(Params):
    """Parameters of merge.fisher."""

    floor: NotNegative = 0.0
    """The least that information counts; the authors' code takes 1e-6, which makes a plain mean of small numbers."""

    normalize: bool = False
    """Divide each model's information by its norm ‖F‖₂, so that no model outweighs the others by its scale alone."""

    scope: Scope = "model"
    """What `normalize` takes norms over: the whole model, each layer, or each tensor."""


class FisherModel(Params):
    """Parameters of each model of merge.fisher."""

    fisher: str
    """The model or step that holds the diagonal of its Fisher information: tensors of the same names and shapes."""

    weight: NotNegative = 1.0
    """Factor of the model's information."""


def _split(p: Fisher) -> Split:
    """Return how the work is cut: norms need a look at everything first."""
    if not p.normalize:
        return Split.ELEMENT
    return Split.REDUCE if p.scope == "tensor" else Split.MODEL


def check_weights(signature: Signature) -> str | None:
    """Return what is wrong if no model counts."""
    return None if any(weights_of(signature)) else "the weights of all models are 0; change one"


def only_one(signature: Signature) -> int | None:
    """Return the only model that counts."""
    counting = [index for index, weight in enumerate(weights_of(signature)) if weight]
    return counting[0] if len(counting) == 1 else None


@op(
    "merge.fisher",
    split=_split,
    splits=(Split.ELEMENT, Split.REDUCE, Split.MODEL),
    pool=pool_of,
    params=Fisher,
    each=FisherModel,
    companions={FISHER: Companion(lambda signature, p: signature.first.shape, without="averaged")},
    simplify=lambda signature, p: only_one(signature),
    check=lambda signature, p: check_weights(signature),
    propagates=True,
    version=2,
    buffers=3,
    cite="Matena and Raffel 2022, Merging Models with Fisher-Weighted Averaging, arXiv:2111.09832, equation 4",
)
class FisherOp(Reduce):
    """Average weights by their diagonal Fisher information: Σ w·F⊙θ / Σ w·F.

    F is the mean over samples of the squared gradients of log p(y|x), a number for each weight, which the user brings.
    Where it is 0 for all models the result is Σ w·θ / Σ w, as in tensors that some model has no information of.
    Computed as θ1 + Σ w·F⊙(θ - θ1) / Σ w·F: where models agree the result is what they agree on. Raises OpError for
    negative information.
    """

    def __call__(self, x: Chunk, p: Fisher) -> Tensor:
        """Return the merged range; without norms."""
        return self.apply(x, p, None)

    def gather(self, x: Chunk, p: Fisher, found: None) -> list[list[float]]:
        """Return the squared norm of each model's information over a block, in lists of one or none."""
        from surgery.math.reduce import squared_norm

        return [[] if one is None else [squared_norm(one)] for one in x.companions[FISHER]]

    def fold(self, total: list[list[float]], part: list[list[float]]) -> list[list[float]]:
        """Collect the blocks' norms."""
        return fold(total, part)

    def solve(self, signature: Signature, p: Fisher, total: list[list[float]], found: None) -> list[float]:
        """Return the norm of each model's information; 1 where it is 0."""
        return [math.sqrt(squared) or 1.0 for squared in sums(total)]

    def rests_on(self, signature: Signature, p: Fisher) -> str:
        """Return the scope: weights and floor decide nothing before `apply`."""
        return p.scope

    def apply(self, x: Chunk, p: Fisher, found: list[float] | None) -> Tensor:
        """Return the merged range."""
        weights = weights_of(x.signature)
        information = [one for one in x.companions[FISHER] if one is not None]
        if len(information) < len(weights):
            return mean_of(x, weights)
        norms = found or [1.0] * len(weights)
        return _weighted(x, information, weights, norms, p.floor)


def _weighted(
    x: Chunk, information: Sequence[Tensor], weights: Sequence[float], norms: Sequence[float], floor: float
) -> Tensor:
    """Return θ1 + Σ w·F⊙(θ - θ1) / Σ w·F; where all F are 0 they count as 1."""
    import torch

    delta, one, total = (x.scratch(index) for index in range(3))

    def counted(index: int) -> Tensor:
        """Fill `one` with w·max(F/norm, floor)."""
        torch.div(information[index], norms[index], out=one)
        return (one.clamp_(min=floor) if floor else one).mul_(weights[index])

    total.zero_()
    for index in range(len(weights)):
        _require_not_negative(information[index], x.signature.name)
        total.add_(counted(index))
    nothing = total == 0
    if empty := bool(nothing.any()):
        total.masked_fill_(nothing, math.fsum(weights))
    out = x.out.zero_()
    for index in range(1, len(weights)):
        share = counted(index)
        if empty:
            share.masked_fill_(nothing, weights[index])
        share.div_(total)  # before it is multiplied: what is small squared would be too small for float32
        out.addcmul_(share, torch.sub(x.models[index], x.models[0], out=delta))
    return out.add_(x.models[0])


def _require_not_negative(information: Tensor, name: str) -> None:
    if information.numel() and float(information.min()) < 0:
        raise OpError(
            f"{name}: `{FISHER}` holds {float(information.min()):g}, Fisher information is a mean of squares and never "
            "negative; check what the model's entry names"
        )
