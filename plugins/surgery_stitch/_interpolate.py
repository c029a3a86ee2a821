"""A vector as a combination of a few given ones: orthogonal matching pursuit, or its nearest ones.

    T [m, D]   vectors to be expressed          S [n, D]   given vectors          ->  chosen [m, k], weights [m, k]

Worked on in batches, so that n·D and m·D are what is held. float32; small systems are solved in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

Weights = Literal["distance", "barycentric", "least_squares"]
Metric = Literal["euclidean", "cosine"]
Chosen = tuple[Tensor, Tensor]

# What a batch may hold: scores of all given vectors, and the chosen ones.
BATCH_BYTES = 64 << 20
_EXACT = 1e-6  # a residual of this share is rounding: nothing is left to express
_RIDGE = 1e-10  # of the mean square of the chosen vectors, so that equal ones can be told from no solution


def batches(targets: Tensor, points: Tensor, k: int) -> Iterator[Tensor]:
    """Yield the targets in batches that fit."""
    size = max(BATCH_BYTES // (4 * (2 * len(points) + 2 * k * points.shape[1])), 1)
    yield from torch.split(targets, size)


def pursue(targets: Tensor, points: Tensor, k: int) -> Chosen:
    """Return k points for each target and their coefficients, chosen greedily by the angle to what is left.

    Pati, Rezaiifar, Krishnaprasad 1993, Orthogonal Matching Pursuit: after each choice all coefficients are those of
    least squares. Coefficients are zero where fewer points express a target exactly.
    """
    inverse = _inverse_norms(points)
    count = min(k, *points.shape)
    chosen = torch.zeros(len(targets), count, dtype=torch.int64, device=targets.device)
    weights = torch.zeros(len(targets), count, dtype=torch.float64, device=targets.device)
    residual, goal = targets, targets.norm(dim=1)
    for step in range(1, count + 1):
        active = residual.norm(dim=1) > _EXACT * goal
        if not active.any():
            break
        scores = (residual @ points.T).abs_().mul_(inverse)
        scores.scatter_(1, chosen[:, : step - 1], -1.0)
        chosen[:, step - 1] = scores.argmax(1)
        atoms = points[chosen[:, :step]]
        solved = _least_squares(targets, atoms)
        weights[active, :step] = solved[active]
        residual = targets - _combined(weights[:, :step], atoms)
    return chosen, weights


def nearest(targets: Tensor, points: Tensor, k: int, metric: Metric, weights: Weights) -> Chosen:
    """Return the k nearest points to each target, weighted by 1/distance, or by how they express it best.

    `least_squares` takes the weights of the smallest error, `barycentric` those that add up to one.
    """
    distances = _distances(targets, points, metric)
    found, chosen = distances.topk(min(k, *points.shape), dim=1, largest=False)
    if weights == "distance":
        near = 1 / found.double().clamp(min=1e-12)
        return chosen, near / near.sum(1, keepdim=True)
    atoms = points[chosen]
    solve = _least_squares if weights == "least_squares" else _barycentric
    return chosen, solve(targets, atoms)


def combine(chosen: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    """Return the same combinations of other vectors, [m, columns of `rows`]."""
    return _combined(weights, rows[chosen])


def transplanted(
    targets: Tensor, points: Tensor, rows: Tensor, k: int, choose: Callable[[Tensor, Tensor, int], Chosen]
) -> Tensor:
    """Return what the targets, combinations of `points`, are among `rows`; points and rows belong together."""
    made = [combine(*choose(batch, points, k), rows) for batch in batches(targets, points, k)]
    return torch.cat(made) if made else rows.new_zeros(0, rows.shape[1])


def _inverse_norms(points: Tensor) -> Tensor:
    """Return 1/|s|, zero for vectors of nothing: a row that was never trained has no direction."""
    norms = points.norm(dim=1)
    return torch.where(norms > 1e-12, 1 / norms.clamp(min=1e-12), 0.0)


def _distances(targets: Tensor, points: Tensor, metric: Metric) -> Tensor:
    if metric == "cosine":
        return 1 - (targets @ points.T).mul_(_inverse_norms(points)) * _inverse_norms(targets)[:, None]
    squares = targets.square().sum(1, keepdim=True) + points.square().sum(1) - 2 * (targets @ points.T)
    return squares.clamp_(min=0).sqrt_()


def _least_squares(targets: Tensor, atoms: Tensor) -> Tensor:
    """Return the weights [m, k] of atoms [m, k, D] that come nearest to targets [m, D]; float64."""
    wide = atoms.double()
    found: Tensor = torch.linalg.solve(_gram(wide), (wide @ targets.double()[:, :, None])[..., 0])
    return found


def _barycentric(targets: Tensor, atoms: Tensor) -> Tensor:
    """Return the weights that come nearest and add up to one: those of the atoms as seen from the target."""
    from_target = atoms.double() - targets.double()[:, None]
    weights: Tensor = torch.linalg.solve(_gram(from_target), torch.ones_like(from_target[..., 0]))
    return weights / weights.sum(1, keepdim=True)


def _gram(atoms: Tensor) -> Tensor:
    gram = atoms @ atoms.mT
    diagonal = torch.diagonal(gram, dim1=1, dim2=2)
    ridge = _RIDGE * diagonal.mean(1, keepdim=True).clamp(min=1e-30)
    return gram + torch.diag_embed(ridge.expand_as(diagonal))


def _combined(weights: Tensor, atoms: Tensor) -> Tensor:
    return (weights[:, None].to(atoms.dtype) @ atoms)[:, 0]
