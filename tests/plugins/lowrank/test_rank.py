"""Ranks as plans know them."""

from __future__ import annotations

import pytest

from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
from surgery_lowrank._rank import Rank, exact, known_rank, untouched


def signature(*shape, kind="mlp.up"):
    return Signature("w.weight", (TensorSpec("w.weight", shape, "BF16"),), None, (), Role(kind, 0), 1)


@pytest.mark.parametrize(
    ("shape", "given", "rank"),
    [
        ((4096, 4096), {"ratio": 0.8}, 1638),
        ((4, 4), {"ratio": 0.1}, 1),
        ((4, 4), {"rank": 9}, 4),
        ((4, 4), {"energy": 0.5}, None),
    ],
)
def test_rank_of_a_shape(shape, given, rank):
    assert known_rank(signature(*shape), Rank(**given)) == rank


def test_large_matrices_are_randomized_unless_energy_asks_for_all():
    assert exact((1024, 9999), Rank(rank=3))
    assert not exact((1025, 1025), Rank(rank=3))
    assert exact((1025, 1025), Rank(rank=3, method="exact"))
    assert exact((1025, 1025), Rank(energy=0.5))


def test_what_is_no_linear_or_saves_nothing_is_copied():
    assert untouched(signature(8, 8, kind="router"), Rank(rank=1))
    assert untouched(signature(8, 8), Rank(rank=4))
    assert not untouched(signature(8, 8), Rank(rank=4, only_if_smaller=False))
    assert not untouched(signature(8, 8), Rank(rank=3))
    assert untouched(signature(0, 8), Rank(rank=3))
