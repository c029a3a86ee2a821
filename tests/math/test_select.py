from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.math.select import (
    FULL,
    Bracket,
    Counted,
    Threshold,
    bracket_from_sample,
    count,
    keep,
    kth_largest,
    refine,
)
from surgery.ops import SAMPLE_RUN, SAMPLE_RUNS

MISSED = Bracket(0x3F800000, 0x3F800001, 0)  # the one pattern of 1.0


def search(x: Tensor, k: int, bracket: Bracket, block: int = 1 << 17) -> tuple[Threshold, int]:
    """Run the engine's loop over blocks; return what it finds and in how many passes."""
    for passes in range(1, 5):
        parts = [count(part, bracket) for part in x.split(block)]
        total = parts[0]
        for part in parts[1:]:
            total = total.add(part)
        found = refine(total, bracket, x.numel(), k)
        if isinstance(found, Threshold):
            return found, passes
        bracket = found
    raise AssertionError("the search does not end")


def by_sorting(x: Tensor, k: int) -> Threshold:
    magnitudes = x.abs()
    value = torch.sort(magnitudes, descending=True).values[k - 1]
    above, equal = int((magnitudes > value).sum()), int((magnitudes == value).sum())
    return Threshold(int(value.view(torch.int32)), float(value), above, equal)


def normal(size: int, seed: int = 0, scale: float = 0.02) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * scale


def runs_of(x: Tensor) -> Tensor:
    starts = range(0, x.numel(), x.numel() // SAMPLE_RUNS)
    return torch.cat([x[start : start + SAMPLE_RUN] for start in starts]).abs()


DENORMAL = 2.0**-149

SHAPES = {
    "normal": normal(5000),
    "rounded to bfloat16": normal(5000).bfloat16().float(),
    "mostly zero": torch.where(normal(5000, 1) > 0.02, normal(5000), 0.0),
    "all equal": torch.full((5000,), -0.25),
    "all zero": torch.zeros(5000),
    "zeros of both signs": torch.tensor([0.0, -0.0] * 1000 + [1.0]),
    "denormal": torch.arange(-2000, 3000) * DENORMAL,
    "the whole range": torch.tensor([3.4e38, -1.2e-38, 1.0, -2.0, 0.0, DENORMAL] * 50),
    "one element": torch.tensor([-3.0]),
}


def test_the_second_largest_of_five_is_minus_four_without_its_sign() -> None:
    x = torch.tensor([1.0, -4.0, 2.0, 3.0, -5.0])
    assert search(x, 2, FULL)[0] == Threshold(bits=0x40800000, value=4.0, above=1, equal=1)
    assert kth_largest(x, 2) == 4.0
    assert keep(x, 4.0).tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("name", SHAPES)
def test_every_way_of_searching_finds_what_sorting_finds(name: str, share: float) -> None:
    x = SHAPES[name]
    k = max(1, math.floor(share * x.numel()))
    expected = by_sorting(x, k)
    sampled = bracket_from_sample(x[: x.numel() // 3 + 1].abs(), x.numel(), k)
    for bracket in (FULL, sampled, MISSED, Bracket(0, 1 << 20, 0), Bracket(1 << 20, 1 << 30, 16)):
        assert search(x, k, bracket)[0] == expected
    assert kth_largest(x, k) == expected.value
    assert int(keep(x, expected).sum()) == expected.above + expected.equal


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_the_partition_and_the_order_of_the_blocks_do_not_matter(
    values: list[float], data: st.DataObject
) -> None:
    x = torch.tensor(values)
    k = data.draw(st.integers(1, len(values)))
    ends = sorted({*data.draw(st.lists(st.integers(0, len(values)), max_size=5)), 0, len(values)})
    parts = data.draw(st.permutations([x[a:b] for a, b in pairwise(ends)]))
    low = data.draw(st.integers(0, (1 << 31) - 1))
    bracket = Bracket(low, data.draw(st.integers(low + 1, 1 << 31)), data.draw(st.sampled_from([0, 16])))
    if bracket.bins > 1 << 20:
        bracket = Bracket(bracket.low, bracket.high, 16)
    found: Bracket | Threshold = bracket
    while isinstance(found, Bracket):
        total = Counted(found.bins, found.shift, 0, 0)
        for part in parts:
            total.add(count(part, found))
        found = refine(total, found, x.numel(), k)
    assert found == by_sorting(x, k)


def test_one_pass_suffices_after_a_sample_and_two_without() -> None:
    x = normal(1 << 20)
    for share in (0.001, 0.1, 0.5, 0.99):
        k = int(share * x.numel())
        assert search(x, k, bracket_from_sample(runs_of(x), x.numel(), k)) == (by_sorting(x, k), 1)
    assert search(x, 1 << 18, FULL) == (by_sorting(x, 1 << 18), 2)


def test_a_bracket_that_misses_on_either_side_costs_two_more_passes() -> None:
    x = normal(1 << 18)
    for k in (1 << 10, 1 << 17):
        assert search(x, k, MISSED) == (by_sorting(x, k), 3)
    x = x + 3.0
    assert search(x, 1 << 17, MISSED) == (by_sorting(x, 1 << 17), 3)


def test_a_sample_of_everything_gives_the_pattern_itself() -> None:
    assert bracket_from_sample(torch.tensor([1.0, 3.0, 2.0]), 3, 2) == Bracket(0x40000000, 0x40000001, 0)


def test_the_bracket_of_a_sample_spans_four_standard_errors_on_either_side() -> None:
    # 201 numbers a pattern apart, too few for two runs; rank 100.5 ± 4·sqrt(201/4) ± 1
    sample = (torch.arange(201, dtype=torch.int32) + (1 << 24)).view(torch.float32)
    bracket = bracket_from_sample(sample, 20_100, 10_050)
    assert (bracket.low - (1 << 24), bracket.high - (1 << 24), bracket.shift) == (71, 131, 0)


def test_runs_that_resemble_each_other_widen_the_bracket() -> None:
    scales = torch.linspace(0.5, 2.0, 64).repeat_interleave(SAMPLE_RUN)
    even = normal(64 * SAMPLE_RUN, scale=1.0)
    plain, clustered = (bracket_from_sample(x.abs(), 1 << 24, 1 << 22) for x in (even, even * scales))
    assert clustered.high - clustered.low > 3 * (plain.high - plain.low)


def test_a_bracket_too_wide_for_one_pass_is_narrowed() -> None:
    scales = torch.linspace(0.7, 1.4, 64).repeat_interleave(SAMPLE_RUN)
    sample = (normal(64 * SAMPLE_RUN, scale=1.0) * scales).abs()
    # the few that are inside of a small tensor can be kept as they are, those of a large one cannot
    small, large = (bracket_from_sample(sample, numel, numel // 5) for numel in (1 << 20, 1 << 30))
    assert (small.shift, large.shift) == (16, 0)
    assert small.low < large.low < large.high < small.high


def test_a_bracket_reaches_the_ends_where_the_rank_is_near_them() -> None:
    sample = normal(65_536).abs()
    assert bracket_from_sample(sample, 1 << 24, 1).high == 1 << 31
    assert bracket_from_sample(sample, 1 << 24, 1 << 24).low == 0


def test_nan_and_infinity_are_above_every_number() -> None:
    x = torch.tensor([1.0, float("nan"), -float("inf"), 2.0, -float("nan")])
    for bracket in (FULL, MISSED, Bracket(0, 0x3F800000, 16)):
        assert search(x, 3, bracket)[0].value == float("inf")
        assert search(x, 4, bracket)[0] == Threshold(0x40000000, 2.0, 3, 1)
    assert kth_largest(x, 4) == 2.0
    assert keep(x, 2.0).tolist() == [False, True, True, True, True]


def test_float64_is_compared_as_float32() -> None:
    x = torch.tensor([1.0 + 1e-12, 1.0, 1e300, 0.5], dtype=torch.float64)
    assert search(x, 2, FULL)[0] == Threshold(0x3F800000, 1.0, above=1, equal=2)
    assert keep(x, 1.0).tolist() == [True, True, True, False]
    assert kth_largest(x, 1) == float("inf")


def test_keep_has_the_shape_of_its_input_and_leaves_it_alone() -> None:
    x = torch.tensor([[-2.0, 1.0], [0.0, -0.0]])
    assert keep(x, 1.0).tolist() == [[True, True], [False, False]]
    assert keep(x.t(), 2.0).tolist() == [[True, False], [False, False]]
    assert keep(x, 0.0).all()
    assert keep(x, -1.0).all()
    assert not keep(x, 1e39).any()
    assert x.tolist() == [[-2.0, 1.0], [0.0, -0.0]]


def test_a_rank_outside_the_tensor_is_refused() -> None:
    x = torch.ones(3)
    with pytest.raises(
        ValueError, match=r"^refine: k must be between 1 and the number of elements, 3, got 4$"
    ):
        refine(count(x, FULL), FULL, 3, 4)
    with pytest.raises(
        ValueError, match=r"^kth_largest: k must be between 1 and the number of elements, 3, got 0$"
    ):
        kth_largest(x, 0)
    with pytest.raises(ValueError, match=r"^bracket_from_sample: k must be between 1 "):
        bracket_from_sample(x, 10, 11)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_finds_what_the_cpu_finds() -> None:
    x = normal(300_000).bfloat16().float()
    there = x.cuda()
    assert search(there, 60_000, FULL) == search(x, 60_000, FULL)
    assert kth_largest(there, 60_000) == kth_largest(x, 60_000)
    assert torch.equal(keep(there, 0.02).cpu(), keep(x, 0.02))


def test_values_are_those_of_numpy() -> None:
    x = SHAPES["denormal"]
    assert kth_largest(x, 7) == float(np.sort(np.abs(x.numpy()))[-7])
