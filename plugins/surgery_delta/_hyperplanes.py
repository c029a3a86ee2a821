"""The reflections of columns that bring one matrix nearest to another.

Of a block, X [rows, w] is to be turned into Y by H = I - 2uuᵀ, or by H = I - uuᵀ + vvᵀ. With G = XᵀX and
S = XᵀY + YᵀX,

    ‖X·H - Y‖² = ‖X - Y‖² + 2·uᵀSu                                                    H = I - 2uuᵀ
    ‖X·H - Y‖² = ‖X - Y‖² + uᵀTu + uᵀGu - vᵀTv + vᵀGv - 2(uᵀv)(uᵀGv)                  H = I - uuᵀ + vvᵀ, T = S - 2G

for vectors of length one. Either is a quadratic form in u, and in v, whose least eigenvector is the best.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

Vectors = tuple[Tensor, ...]
"""u, or u and v, of every block: [blocks, w] in float64, of length one or zero."""


def turned(X: Tensor, vectors: Vectors) -> Tensor:
    """Return X·H of stretches X [..., w]; vectors are those of each stretch, or broadcast to them."""
    u, *v = vectors
    projected = (X * u).sum(-1, keepdim=True) * u
    if not v:
        return X - 2 * projected
    return X - projected + (X * v[0]).sum(-1, keepdim=True) * v[0]


def nearest(X: Tensor, Y: Tensor, sweeps: int, begin: Vectors | None, *, plus: bool) -> Vectors:
    """Return the vectors of blocks X and Y [blocks, rows, w] in float64; zeros where nothing brings them nearer.

    With `plus`, `begin` are vectors that are known: one turn makes them better, never worse.
    """
    if not plus:
        return (torch.stack([_reflection(one, other) for one, other in zip(X, Y, strict=True)]),)
    found = []
    for block, (one, other) in enumerate(zip(X, Y, strict=True)):
        known = (begin[0][block], begin[1][block]) if begin else None
        found.append(_relaxed(one, other, sweeps, known))
    return torch.stack([u for u, _ in found]), torch.stack([v for _, v in found])


def _reflection(X: Tensor, Y: Tensor) -> Tensor:
    cross = X.T @ Y
    values, vectors = torch.linalg.eigh(cross + cross.T)
    return _signed(vectors[:, 0]) if float(values[0]) < 0 else torch.zeros_like(vectors[:, 0])


def _relaxed(X: Tensor, Y: Tensor, sweeps: int, known: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Return u and v, the best of what several beginnings lead to."""
    G, cross = X.T @ X, X.T @ (Y - X)
    T, nothing = cross + cross.T, torch.zeros_like(G[0])
    best, least = (nothing, nothing), 0.0
    again = known is not None and bool(known[0].any())
    for u, v in [known] if again and known else _beginnings(G, cross, T):
        error = _error(G, T, u, v)
        for _ in range(1 if again else sweeps):
            u = _least(G + T - _both(G, v))
            v = _least(G - T - _both(G, u))
            before, error = error, _error(G, T, u, v)
            if not error < before:
                break
        if error < least:
            best, least = (_signed(u), _signed(v)), error
    return best


def _beginnings(G: Tensor, cross: Tensor, T: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield vectors to begin with: those of the symmetric K nearest to X·K = Y - X, and the best v without a u.

    vvᵀ - uuᵀ has two eigenvalues s and -s: with p and q of K's largest and least ones v = cp + dq, u = dp + cq,
    c² - d² = s.
    """
    K = torch.linalg.pinv(G, hermitian=True) @ cross
    values, vectors = torch.linalg.eigh(K + K.T)
    s = min(max(float(values[-1] - values[0]) / 4, 0.0), 1.0)
    c, d = ((1 + s) / 2) ** 0.5, ((1 - s) / 2) ** 0.5
    p, q = vectors[:, -1], vectors[:, 0]
    if s > 0:
        yield d * p + c * q, c * p + d * q
    v = _least(G - T)
    yield _least(G + T - _both(G, v)), v


def _both(G: Tensor, v: Tensor) -> Tensor:
    """Return Gvvᵀ + vvᵀG."""
    outer = torch.outer(G @ v, v)
    return outer + outer.T


def _error(G: Tensor, T: Tensor, u: Tensor, v: Tensor) -> float:
    """Return ‖X·H - Y‖² - ‖X - Y‖²."""
    return float(u @ (G + T) @ u + v @ (G - T) @ v - 2 * (u @ v) * (u @ G @ v))


def _least(form: Tensor) -> Tensor:
    vector: Tensor = torch.linalg.eigh(form)[1][:, 0]
    return vector


def _signed(vector: Tensor) -> Tensor:
    """Return a vector turned so that its largest element is positive."""
    return -vector if float(vector[vector.abs().argmax()]) < 0 else vector
