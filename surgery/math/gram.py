"""Points in the span of a few long vectors, known from the vectors' inner products alone.

    blocks --gram--> a row of products each --total--> G [T, T] --solve--> c [T] --apply--> Σ c·x

A mean direction, a point on an arc or a median lies in the span of its inputs: it is T numbers, however long they are.
So a method that takes a hundred steps over whole tensors elsewhere reads its inputs twice: once for G, once for Σ c·x.
Blocks' products are float64 sums of exact products of float32; they are kept apart until all are there and then added
exactly, so that neither the order of the blocks nor who gathered them shows.

Differences to a base are taken before they are multiplied (`gram(vectors, origin)`), never afterwards: of siblings the
products ⟨θi,θj⟩ agree in nearly all digits, and ⟨τi,τj⟩ is what is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from surgery.math.reduce import exact_sum

Matrix = npt.NDArray[np.float64]

__all__ = ["Matrix", "cosines", "distances", "length", "mean_cosine", "norms", "symmetric", "total"]

_QUIET = np.errstate(over="ignore", invalid="ignore")  # NaN and Inf of the inputs show in the result


def total(parts: Sequence[Sequence[float]]) -> Matrix:
    """Return the symmetric G [T, T] of blocks' products, each as `reduce.gram` gives it; rounded once.

    Raises ValueError if the blocks are not of equally many vectors.
    """
    return symmetric(np.array([exact_sum(products) for products in zip(*parts, strict=True)]))


def symmetric(products: Matrix) -> Matrix:
    """Return G [..., T, T] from the products (0,0), (0,1), ..., (T-1,T-1) along the last axis."""
    size = (math.isqrt(8 * products.shape[-1] + 1) - 1) // 2
    rows, columns = np.triu_indices(size)
    G = np.empty((*products.shape[:-1], size, size))
    G[..., rows, columns] = products
    G[..., columns, rows] = products
    return G


def norms(G: Matrix) -> Matrix:
    """Return each vector's length, [..., T]."""
    return np.asarray(np.sqrt(np.diagonal(G, axis1=-2, axis2=-1)))


@_QUIET
def cosines(G: Matrix, negligible: float = 0.0) -> Matrix:
    """Return the cosines between vectors, [..., T, T]: 0 for those that are not longer than `negligible`.

    They have no direction, so that the diagonal tells which have one.
    """
    lengths = norms(G)
    directed = ~(lengths <= negligible)  # NaN counts as a length, so that it shows
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=directed)
    # one after the other: the product of two lengths may be too small
    result = np.clip(G * inverse[..., :, None] * inverse[..., None, :], -1.0, 1.0)
    diagonal = np.arange(G.shape[-1])
    result[..., diagonal, diagonal] = directed
    return np.asarray(result)


def mean_cosine(G: Matrix) -> Matrix:
    """Return the mean cosine over the pairs of vectors that are both not 0, [...]; 0 where there is no such pair."""
    rows, columns = np.triu_indices(G.shape[-1], 1)
    between = cosines(G)
    directed = np.diagonal(between, axis1=-2, axis2=-1)
    pairs = (directed[..., rows] * directed[..., columns]).sum(-1)
    return np.asarray(between[..., rows, columns].sum(-1) / np.maximum(pairs, 1))


def length(G: Matrix, c: Matrix) -> float:
    """Return |Σ c·x|."""
    return math.sqrt(max(float(c @ G @ c), 0.0))


@_QUIET
def distances(G: Matrix, c: Matrix) -> Matrix:
    """Return each vector's distance |x - Σ c·x| to a point, [T]; any origin of G will do where Σ c = 1."""
    apart = np.eye(len(c)) - c
    return np.asarray(np.sqrt(np.maximum(np.einsum("ti,ij,tj->t", apart, G, apart), 0.0)))
