"""What a mixture of experts has that no dense model has: routers, biases, noise. Called by layout ops only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from surgery.ops import Chunk, Need, Params, Signature, Split, op
from surgery.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor


class Draws(Params):
    """Which numbers: normal, or uniform within ±√(1/D)."""

    kind: Literal["normal", "uniform"]


@op("stitch.router_draws", models=1, params=Draws)
def draws(x: Chunk, p: Draws) -> Tensor:
    """Random numbers in the shape [E, D] of the input: N(0, 1), or uniform in ±√(1/D), as torch begins a Linear."""
    if p.kind == "normal":
        return x.out.copy_(_normal(x))
    bound = x.signature.first.row**-0.5
    return x.out.copy_((2 * x.uniform().double() - 1) * bound)


class Expert(Params):
    """`noise`: the deviation of what is added to an expert's matrix; `scale`: what the sum is multiplied by."""

    noise: float = 0.0
    scale: float = 1.0


def _as_it_is(signature: Signature, p: Expert) -> int | None:
    return 0 if p.noise == 0 and p.scale == 1 else None


@op("stitch.expert", models=1, params=Expert, simplify=_as_it_is, propagates=True)
def expert(x: Chunk, p: Expert) -> Tensor:
    """(W + noise·g)·scale with g from N(0, 1), so that copies of one matrix differ."""
    w = x.models[0].double()
    if p.noise:
        w = w + p.noise * _normal(x)
    return x.out.copy_(w * p.scale)


def _normal(x: Chunk) -> Tensor:
    """Return normal numbers, float64, a function of what `x.uniform` is (Box and Muller 1958)."""
    import torch

    from surgery.math.random import normal

    first = x.uniform(0).to(torch.float64, copy=True)  # the buffer of the draws is used again
    return normal(first, x.uniform(1).double())


class Size(Params):
    """How many elements."""

    size: int


def _sized(signature: Signature, p: Size) -> TensorSpec:
    return TensorSpec(signature.name, (p.size,), signature.first.dtype)


@op("stitch.no_bias", split=Split.TENSOR, models=1, params=Size, infer=_sized)
def no_bias(x: Chunk, p: Size) -> Tensor:
    """A bias [size] of zeros in the dtype of the input."""
    return x.models[0].new_zeros(p.size)


class Prompts(Params):
    """How many of the rows belong to each expert's prompts: (positive, negative) for each, in the order of the rows."""

    tokens: tuple[tuple[int, int], ...]


def _routed(signature: Signature, p: Prompts) -> TensorSpec:
    spec = signature.first
    return TensorSpec(signature.name, (len(p.tokens), *spec.shape[1:]), spec.dtype)


@op("stitch.router_of_prompts", split=Split.TENSOR, models=1, params=Prompts, infer=_routed)
def router_of_prompts(x: Chunk, p: Prompts) -> Tensor:
    """The router [E, D] from the embeddings [T, D] of the tokens of prompts.

    Row e is unit(unit(mean of positive) - unit(mean of negative)), the means over all tokens of an expert's prompts,
    in float64; without negative prompts nothing is taken away.
    """
    import torch

    sides = torch.split(x.models[0].double(), [count for pair in p.tokens for count in pair])
    means = [_unit(side.mean(0)) if len(side) else side.sum(0) for side in sides]
    rows = [_unit(wanted - other) for wanted, other in zip(means[::2], means[1::2], strict=True)]
    return torch.stack(rows).to(x.models[0].dtype)


class Sides(Params):
    """How many prompts each expert has, (positive, negative) in order, and the first expert that gets a row.

    `mean`: of all tokens of a prompt, or the last token alone.
    """

    prompts: tuple[tuple[int, int], ...]
    first: int
    mean: bool


@op("stitch.router_of_states", split=Split.TENSOR, models=1, params=Sides, needs=[Need.LAST, Need.MEAN])
def router_of_states(x: Chunk, p: Sides) -> Tensor:
    """The router [E, D], shaped like the input, from the hidden states [P, D] before a layer, one for each prompt.

    The row of an expert is unit(mean over its positive prompts - mean over its negative ones), in float64. Without
    negative prompts nothing is taken away.
    """
    import torch

    states = x.statistics[Need.MEAN if p.mean else Need.LAST]
    sides = torch.split(states, [count for pair in p.prompts for count in pair])
    means = [side.mean(0) if len(side) else side.sum(0) for side in sides]
    rows = [_unit(wanted - other) for wanted, other in zip(means[::2], means[1::2], strict=True)]
    return x.out.copy_(torch.stack(rows[p.first : p.first + len(x.out)]))


def _unit(row: Tensor) -> Tensor:
    """Return a row of norm 1; what is shorter than 1e-8 is made no longer than that allows (as mergekit does)."""
    return row.div(row.norm().clamp(min=1e-8))
