"""k-means of vectors that are known by their inner products alone.

    ‖x_i - mean of C‖² = G_ii - 2·mean_{j∈C} G_ij + mean_{j,l∈C} G_jl

Long vectors are then seen once, to make the Gram matrix G [n, n]; rounds cost n²·k. All in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

_ROUNDS: Final = 100  # Lloyd's algorithm is at rest long before


def clustered(G: Tensor, k: int, restarts: int, seed: int) -> Tensor:
    """Return which of k clusters each of n vectors belongs to, int64 [n]; k < n. No cluster is empty.

    The best of `restarts` runs of Lloyd's algorithm from k-means++ (Arthur, Vassilvitskii 2007), the first of equals.
    Runs depend on G, `seed` and their number alone.
    """
    import torch

    best: Tensor | None = None
    least = float("inf")
    for run in range(restarts):
        labels, spread = _settled(G, _started(G, k, _draws(seed, run, k).to(G.device)), k)
        if best is None or spread < least * (1 - 1e-12):
            best, least = labels, spread
    assert best is not None
    names: Tensor = torch.unique(best, return_inverse=True)[1]
    return names


def _draws(seed: int, run: int, count: int) -> Tensor:
    import torch

    from surgery.math.random import stream_key, uniform

    return uniform(stream_key(seed, "adapter.lego", "", run), 0, torch.empty(count, dtype=torch.float64))


def _started(G: Tensor, k: int, draws: Tensor) -> Tensor:
    """Return labels by the nearest of k vectors, each chosen with a chance that grows with its squared distance."""
    import torch

    squares = G.diagonal()
    chosen = [int(draws[0] * len(G))]
    near = _to_one(G, chosen[0])
    for draw in draws[1:k]:
        sums = near.cumsum(0)
        if float(sums[-1]) <= 0:
            break  # fewer than k different vectors
        chosen.append(min(int(torch.searchsorted(sums, draw * sums[-1], right=True)), len(G) - 1))
        near = torch.minimum(near, _to_one(G, chosen[-1]))
    return (squares[chosen] - 2 * G[:, chosen]).argmin(1)


def _to_one(G: Tensor, index: int) -> Tensor:
    """Return squared distances to one of the vectors; what is rounding is 0."""
    import torch

    squares = G.diagonal()
    found = squares + squares[index] - 2 * G[index]
    return torch.where(found > 1e-14 * (squares + squares[index]), found, 0.0)


def _settled(G: Tensor, labels: Tensor, k: int) -> tuple[Tensor, float]:
    """Return labels that a round no longer changes, and the sum of squared distances to the means."""
    import torch

    for _ in range(_ROUNDS):
        labels = _occupied(G, labels, k)
        distances = _distances(G, labels, k)
        again = distances.argmin(1)
        # where a vector is as near to its own mean as to another one it stays
        here = distances.gather(1, labels[:, None])[:, 0]
        again = torch.where(distances.amin(1) < here, again, labels)
        if torch.equal(again, labels):
            break
        labels = again
    labels = _occupied(G, labels, k)
    return labels, float(_distances(G, labels, k).gather(1, labels[:, None]).sum())


def _occupied(G: Tensor, labels: Tensor, k: int) -> Tensor:
    """Give every empty cluster the vector of the largest cluster that is farthest from its mean."""
    import torch

    labels = labels.clone()
    for empty in range(k):
        counts = torch.bincount(labels, minlength=k)
        if int(counts[empty]) == 0:
            largest = int(counts.argmax())
            members = (labels == largest).nonzero()[:, 0]
            farthest = _distances(G, labels, k)[members, largest].argmax()
            labels[members[farthest]] = empty
    return labels


def _distances(G: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return squared distances of all vectors to the means of all clusters, [n, k]; infinite to an empty one."""
    import torch

    shares = torch.nn.functional.one_hot(labels, k).to(G.dtype)
    counts = shares.sum(0)
    shares = shares / counts.clamp(min=1)
    inner = G @ shares
    found = G.diagonal()[:, None] - 2 * inner + (shares * inner).sum(0)
    return torch.where(counts == 0, torch.inf, found)
