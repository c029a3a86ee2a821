"""Models of one matrix, for the tests of merges that decompose matrices."""

from __future__ import annotations

import torch

ALL = {"targets": "all"}  # a tensor that has no place in a model is no Linear of a block
ZERO = torch.zeros(2, 2)


def diag(*values):
    """A diagonal matrix, whose singular values and vectors are plain to see."""
    return torch.diag(torch.tensor([float(value) for value in values]))


def noise(*shape, seed=0, dtype=torch.float64):
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_models(shape, count, dtype=torch.float32):
    """Models near a base, and the base."""
    base = noise(*shape).to(dtype)
    return [(base + 0.01 * noise(*shape, seed=1 + i)).to(dtype) for i in range(count)], base


def low_rank_models(shape, count, rank):
    """Models in float64 whose deltas have few ranks, and the base."""
    base = noise(*shape)
    deltas = [noise(shape[0], rank, seed=1 + i) @ noise(rank, shape[1], seed=99 + i) for i in range(count)]
    return [base + 0.01 * delta for delta in deltas], base


def deltas_of(models, base):
    """The deltas in float64, each seen as a matrix."""
    return [(model.double() - base.double()).reshape(len(base), -1) for model in models]


def by_svd(matrix, change):
    """U·change(Σ)·Vᵀ, by numpy's decomposition."""
    import numpy as np

    U, S, Vh = np.linalg.svd(matrix.numpy(), full_matrices=False)
    return torch.from_numpy((U * change(S)) @ Vh)
