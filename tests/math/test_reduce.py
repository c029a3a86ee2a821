from __future__ import annotations

import math
import struct
import threading
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.math.reduce import dot, exact_sum, first_nonfinite, gram, nan_free, squared_norm

NAN, INF = float("nan"), float("inf")
FLOATS = st.floats(-1e300, 1e300)


def normal(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def in_two_lanes(x: list[float]) -> float:
    """Sum as numpy's einsum does: buffers of 8,192 one after the other; in each an accumulator for even places and one
    for odd ones, of every eight places the last first."""
    total = 0.0
    for start in range(0, len(x), 8192):
        piece, lanes = x[start : start + 8192], [0.0, 0.0]
        whole = len(piece) - len(piece) % 8
        places = [i + j for i in range(0, whole, 8) for j in (6, 7, 4, 5, 2, 3, 0, 1)]
        for place in [*places, *range(whole, len(piece))]:
            lanes[place % 2] += piece[place]
        total += lanes[0] + lanes[1]
    return total


def test_small_inner_products_are_exact() -> None:
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, -5.0, 6.0])
    assert dot(a, b) == 12.0
    assert squared_norm(a) == 14.0
    assert gram([a, b]) == [14.0, 12.0, 77.0]
    assert gram([a]) == [14.0]
    assert gram([]) == []
    assert a.tolist() == [1.0, 2.0, 3.0]


def test_products_of_differences_to_an_origin() -> None:
    a, b, origin = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 5.0]), torch.tensor([1.0, 1.0])
    assert gram([a, b], origin) == [5.0, 8.0, 16.0]
    assert (a.tolist(), origin.tolist()) == ([2.0, 3.0], [1.0, 1.0])
    wide = normal(50_000).double()
    assert gram([wide, wide * 2], wide) == [0.0, 0.0, dot(wide, wide)]
    with pytest.raises(ValueError, match=r"gram: blocks must have one shape, got \(2,\), \(3,\)"):
        gram([a], torch.ones(3))


def test_siblings_keep_the_digits_of_their_differences() -> None:
    origin = normal(1000)
    sibling = origin * (1 + 2.0**-20)
    delta = (sibling - origin).double()
    assert gram([sibling], origin) == [squared_norm(delta)]


def test_products_are_not_rounded_to_float32() -> None:
    a = torch.tensor([1.0 + 2.0**-23, 1.0])
    assert squared_norm(a) == (1 + 2.0**-23) ** 2 + 1


@pytest.mark.parametrize("size", [0, 1, 7, 127, 129, 1000, 16_384])
def test_the_order_of_a_sum_follows_from_the_length_alone(size: int) -> None:
    a, b = normal(size), normal(size, 1)
    products = (a.double() * b.double()).tolist()
    assert dot(a, b) == in_two_lanes(products)


def test_pieces_of_a_block_are_added_exactly() -> None:
    a, b = normal(131_072), normal(131_072, 1)
    pieces = [in_two_lanes(piece.tolist()) for piece in (a.double() * b.double()).split(65_536)]
    assert dot(a, b) == math.fsum(pieces)


def test_a_gram_equals_the_dots_of_its_pairs_bit_for_bit() -> None:
    vectors = [normal(40_001, seed) for seed in range(4)]
    assert gram(vectors) == [dot(vectors[i], vectors[j]) for i in range(4) for j in range(i, 4)]
    assert gram(vectors)[0] == squared_norm(vectors[0])


def test_float64_views_and_shapes_are_taken_as_they_are() -> None:
    a = normal(600).reshape(20, 30)
    assert squared_norm(a) == squared_norm(a.flatten()) == squared_norm(a.double())
    assert dot(a.t(), a.t()) == squared_norm(a.t().contiguous())


def test_two_threads_get_the_bits_that_one_gets() -> None:
    vectors = [normal(100_000, seed) for seed in range(4)]
    expected = [squared_norm(vector) for vector in vectors]
    results: dict[int, set[float]] = {i: set() for i in range(4)}

    def work(i: int) -> None:
        for _ in range(20):
            results[i].add(squared_norm(vectors[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[i] for i in range(4)] == [{value} for value in expected]


def test_nonfinite_inputs_give_nonfinite_sums_without_a_warning() -> None:
    assert math.isnan(dot(torch.tensor([INF, INF]), torch.tensor([1.0, -1.0])))
    assert math.isnan(dot(torch.tensor([INF]), torch.tensor([0.0])))
    assert squared_norm(torch.tensor([INF, 1.0])) == INF
    assert squared_norm(torch.tensor([1e200], dtype=torch.float64)) == INF


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^gram: blocks must have one shape, got \(2,\), \(3,\)$"):
        dot(torch.ones(2), torch.ones(3))


@given(st.lists(FLOATS, max_size=50), st.randoms(use_true_random=False))
def test_an_exact_sum_is_rounded_once_in_any_order(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert exact_sum(shuffled) == float(sum(map(Fraction, values)))


def test_an_exact_sum_takes_infinities() -> None:
    assert exact_sum([1e300, 1.0, -1e300]) == 1.0
    assert exact_sum([]) == 0.0
    assert exact_sum([1.0, INF]) == INF
    assert math.isnan(exact_sum([INF, -INF]))


@given(st.lists(st.floats(width=32), max_size=30))
@settings(deadline=None)
def test_what_is_not_finite_is_found_and_counted(values: list[float]) -> None:
    x = torch.tensor(values)
    where = [i for i, value in enumerate(values) if not math.isfinite(value)]
    assert nan_free(x) is (not where)
    assert first_nonfinite(x) == (len(where), where[0] if where else -1)


def test_a_sum_that_overflows_is_not_taken_for_infinity() -> None:
    large = torch.full((4,), 3e38)
    assert not torch.isfinite(large.sum())
    assert nan_free(large)
    assert first_nonfinite(large) == (0, -1)


def test_the_first_nonfinite_has_a_flat_index() -> None:
    x = torch.tensor([[1.0, 2.0], [INF, NAN]])
    assert first_nonfinite(x) == (2, 2)
    assert not nan_free(x)


def test_a_sum_is_pinned_for_ever() -> None:
    a = torch.arange(1, 50_001, dtype=torch.float32) / 7
    assert struct.pack(">d", squared_norm(a)).hex() == "4268bfb7c0cb7fdd"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_agrees_to_float64_rounding() -> None:
    vectors = [normal(100_000, seed) for seed in range(2)]
    assert gram([v.cuda() for v in vectors]) == pytest.approx(gram(vectors), rel=1e-12, abs=1e-9)
    assert first_nonfinite(torch.tensor([0.0, NAN]).cuda()) == (1, 1)
