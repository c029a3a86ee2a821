"""Merges of whole matrices: what is a matrix, the models' deltas one at a time, and what becomes of the rest.

The methods of this kind decompose or solve with the deltas τ = w·(θ - θ0) of one matrix. They are defined for the
Linears of the blocks; embeddings, heads, norms and biases get θ0 + λ·c·Στ with one factor c, 1/T for the mean.

A delta is made in float64 when it is asked for and forgotten by whoever asked: one is held at a time, however many
models there are. Sums, and everything but matrices, go over the memory in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from surgery.ops import BASE, BLOCK, Chunk, Params, Signature
from surgery.scalars import Scalar, Schedulable
from surgery.targets import Targets, is_target, matrix_shape
from surgery_merge._common import lacks_base, weights_of

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, int]
Positive = Annotated[float, Schedulable(gt=0)]

_DOUBLE: Final = 8  # bytes of a float64
_PIECES: Final = 5 * _DOUBLE * BLOCK  # what sums hold at a time
_SLACK: Final = 1e-12  # 7/8 of 8 is 7, though floats may say a little more


class Spectral(Params):
    """Parameters that merges of whole matrices have in common."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of the merged delta."""

    targets: Targets = "linear"
    """What counts as a matrix: Linears of the blocks, or `all` tensors of two and more dimensions."""


@dataclass(frozen=True, slots=True, eq=False)
class Deltas:
    """The deltas w·(model - base) of one matrix, or of one tensor; models of weight 0 are not among them."""

    models: tuple[Tensor, ...]
    base: Tensor
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.of(index) for index in range(len(self)))

    @property
    def epsilon(self) -> float:
        """Return the rounding unit of the numbers that the deltas are made of."""
        import torch

        return torch.finfo(self.base.dtype).eps

    def of(self, index: int) -> Tensor:
        """Return one delta in float64."""
        return self._add(index, self._zeros())

    def total(self) -> Tensor:
        """Return Στ in float64, summed in the models' order."""
        total = self._zeros()
        for index in range(len(self)):
            self._add(index, total)
        return total

    def pieces(self) -> Iterator[tuple[slice, Deltas]]:
        """Yield stretches of the flat tensor, and the deltas there."""
        models, base = [model.reshape(-1) for model in self.models], self.base.reshape(-1)
        for start in range(0, len(base), BLOCK):
            at = slice(start, start + BLOCK)
            yield at, Deltas(tuple(model[at] for model in models), base[at], self.weights)

    def _zeros(self) -> Tensor:
        import torch

        return torch.zeros_like(self.base, dtype=torch.float64)

    def _add(self, index: int, to: Tensor) -> Tensor:
        """Add one delta to a float64 tensor of the same shape."""
        out = to.view(-1)
        for at, piece in self.pieces():
            out[at].add_(piece.models[index].double() - piece.base, alpha=self.weights[index])
        return to


def mean(deltas: Deltas) -> float:
    """Return what Στ is multiplied with to be the mean."""
    return 1 / len(deltas)


def merged(
    x: Chunk, p: Spectral, whole: Callable[[Deltas], Tensor], rest: Callable[[Deltas], float] = mean
) -> Tensor:
    """Return base + λ·whole(deltas) for each matrix of a tensor, base + λ·rest(deltas)·Στ of what is no matrix.

    `whole` returns float64 in the matrix's shape, which is then written over.
    """
    import torch

    assert x.base is not None
    deltas = _deltas(x.models, x.base, weights_of(x.signature))
    result = torch.empty_like(x.base)
    if not is_target(x.signature, p.targets):
        _add_sum(deltas, p.lambda_ * rest(deltas), result)
        return result
    for matrices, out in _matrices(deltas, matrix_shape(x.signature), result):
        out.copy_(whole(matrices).mul_(p.lambda_).add_(matrices.base))
    return result


def of_matrices(x: Chunk, whole: Callable[[Deltas], Tensor]) -> Tensor:
    """Return base + whole(deltas) for each matrix of a tensor; the models have no weights."""
    import torch

    assert x.base is not None
    deltas, result = Deltas(tuple(x.models), x.base, (1.0,) * len(x.models)), torch.empty_like(x.base)
    for matrices, out in _matrices(deltas, matrix_shape(x.signature), result):
        out.copy_(whole(matrices).add_(matrices.base))
    return result


def _matrices(deltas: Deltas, shape: Shape, result: Tensor) -> Iterator[tuple[Deltas, Tensor]]:
    """Yield the deltas of each matrix of a tensor, and where its result goes."""
    stacks = [model.reshape(-1, *shape) for model in deltas.models]
    for index, (base, out) in enumerate(
        zip(deltas.base.reshape(-1, *shape), result.view(-1, *shape), strict=True)
    ):
        yield Deltas(tuple(stack[index] for stack in stacks), base, deltas.weights), out


def _deltas(models: Sequence[Tensor], base: Tensor, weights: Sequence[float]) -> Deltas:
    kept = [(model, weight) for model, weight in zip(models, weights, strict=True) if weight]
    return Deltas(tuple(model for model, _ in kept), base, tuple(weight for _, weight in kept))


def _add_sum(deltas: Deltas, factor: float, result: Tensor) -> None:
    out = result.view(-1)
    for at, piece in deltas.pieces():
        out[at] = piece.total().mul_(factor).add_(piece.base)


def leading(S: Tensor, share: float) -> int:
    """Return the smallest k with Σ_{i≤k} σ ≥ share·Σσ, up to 1e-12 of the sum; `S` falls from the largest."""
    import torch

    sums = S.cumsum(0)
    if not len(sums) or share <= 0:
        return 0
    return min(int(torch.searchsorted(sums, share * float(sums[-1]) * (1 - _SLACK))) + 1, len(sums))


def check(signature: Signature, p: Params) -> str | None:
    """Return what is wrong with a tensor."""
    return lacks_base(signature)


def same(signature: Signature, p: Spectral, *, keeps_one: bool) -> int | None:
    """Return the base when nothing is added, or the only model where its delta is added as it is.

    `keeps_one` says whether the method leaves the delta of a single model alone; what is no matrix always is.
    """
    weights = weights_of(signature)
    adding = [index for index, weight in enumerate(weights) if weight]
    if p.lambda_ == 0 or not adding or not signature.numel:
        return BASE
    as_it_is = len(adding) == 1 and weights[adding[0]] * p.lambda_ == 1
    return adding[0] if as_it_is and (keeps_one or not is_target(signature, p.targets)) else None


def count(signature: Signature) -> int:
    """Return how many models take part."""
    return sum(1 for weight in weights_of(signature) if weight)


def workspace(signature: Signature, targets: Targets, needed: Callable[[Shape], int]) -> int:
    """Return the temporaries of `merged`: what `whole` needs for a matrix of a shape, its result included.

    What is decomposed is in float64 already: it takes the place of the copy that `exact_bytes` counts. Adding the base
    converts it once more.
    """
    if not is_target(signature, targets):
        return _PIECES
    shape = matrix_shape(signature)
    return _PIECES + max(needed(shape), 2 * matrix_bytes(shape))


def matrix_bytes(shape: Shape) -> int:
    """Return the bytes of a matrix in float64."""
    return _DOUBLE * shape[0] * shape[1]
