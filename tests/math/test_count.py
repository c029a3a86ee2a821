from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.math.count import Bracket, Counted, count, inside, inside_on_device
from surgery.math.patterns import TOP, pattern_of

ONE, TWO = pattern_of(1.0), pattern_of(2.0)
BETWEEN = Bracket(ONE, TWO, 16)  # [1, 2) in 128 bins


def normal(size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size))


def test_five_numbers_are_counted_by_hand() -> None:
    counted = count(torch.tensor([0.5, -1.0, 1.5, 2.0, -7.0]), BETWEEN)
    assert (counted.above, counted.inside, counted.pending) == (2, 2, 2)
    assert [offsets.tolist() for offsets in counted.offsets] == [[0, 1 << 22]]
    assert counted.nbytes == 8


def test_a_bracket_has_as_many_bins_as_cover_it() -> None:
    assert Bracket(0, TOP, 16).bins == 32_768
    assert Bracket(5, 6, 0).bins == 1
    assert Bracket(0, (1 << 16) + 1, 16).bins == 2


def test_offsets_and_a_histogram_locate_the_same_rank() -> None:
    few, many = Bracket(ONE, ONE + 10, 0), Bracket(ONE, TWO, 0)
    x = (ONE + torch.tensor([0, 9, 9, 3, 3, 3, 1] * 20, dtype=torch.int32)).view(torch.float32)
    assert count(x, few).histogram is not None
    assert count(x, many).histogram is None
    for rank, expected in (
        (1, (9, 0, 0, 40)),
        (40, (9, 0, 0, 40)),
        (41, (3, 0, 40, 60)),
        (140, (0, 0, 120, 20)),
    ):
        assert count(x, few).locate(rank) == expected
        assert count(x, many).locate(rank) == expected


def test_a_shifted_histogram_locates_a_bin() -> None:
    x = 1 + torch.arange(1 << 12) / (1 << 12)
    counted = count(x, Bracket(ONE, TWO, 19))  # 16 bins of 1/16
    assert counted.histogram is not None
    assert counted.locate(1) == (15, 19, 0, 256)
    assert counted.locate(257) == (14, 19, 256, 256)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64, 1000, 131_072, 131_073])
def test_any_length_is_counted_though_words_of_eight_are_compared(size: int) -> None:
    x = normal(size)
    for bracket in (Bracket(0, TWO, 16), BETWEEN, Bracket(ONE, TOP, 16), Bracket(0, TOP, 16)):
        bits = x.view(torch.int32) & 0x7FFFFFFF
        counted = count(x, bracket)
        assert counted.above == int((bits.long() >= bracket.high).sum())
        assert counted.inside == int(((bits >= bracket.low) & (bits.long() < bracket.high)).sum())


@given(
    st.lists(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=40),
    st.integers(0, TOP - 1),
    st.integers(1, TOP),
)
@settings(max_examples=200, deadline=None)
def test_torch_operations_find_what_numpy_finds(patterns: list[int], low: int, width: int) -> None:
    x = torch.from_numpy(np.array(patterns, np.uint32).view(np.float32))
    bracket = Bracket(low, min(low + width, TOP), 16)
    above, offsets = inside(x, x.numel(), bracket)
    above_there, offsets_there = inside_on_device(x, bracket)
    assert above == above_there
    assert offsets.tolist() == offsets_there.tolist()


def test_a_total_stays_small_however_much_is_inside() -> None:
    wide, x = Bracket(ONE, ONE + (1 << 20), 0), torch.full((1 << 17,), 1.0625)
    total = count(x, wide)
    for _ in range(40):
        total.add(count(x, wide))
    assert total.nbytes <= 12 << 20
    assert total.inside == 41 << 17
    assert total.locate(1) == (1 << 19, 0, 0, 41 << 17)


def test_adding_leaves_the_other_part_as_it_was() -> None:
    bracket = Bracket(ONE, ONE + 2, 0)
    part = count(torch.ones(100), bracket)
    total = Counted(bracket.bins, bracket.shift, 0, 0).add(part).add(part)
    assert total.locate(200) == (0, 0, 0, 200)
    assert part.locate(100) == (0, 0, 0, 100)


def test_a_part_outlives_the_buffers_it_came_from() -> None:
    everything = Bracket(0, TOP, 16)
    part = count(torch.ones(5), everything)
    count(torch.zeros(5), everything)
    assert [offsets.tolist() for offsets in part.offsets] == [[ONE] * 5]


def test_inputs_are_left_alone_and_nothing_is_no_contribution() -> None:
    x = torch.tensor([-1.0, 1.5])
    count(x, BETWEEN)
    assert x.tolist() == [-1.0, 1.5]
    nothing = count(torch.empty(0), BETWEEN)
    assert (nothing.above, nothing.inside) == (0, 0)


def test_threads_do_not_share_buffers() -> None:
    blocks = [normal(1 << 15) * scale for scale in (0.5, 1.0, 2.0, 4.0)]
    expected = [(c.above, c.inside) for c in (count(x, BETWEEN) for x in blocks)]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(50):
            counted = count(blocks[i], BETWEEN)
            if (counted.above, counted.inside) != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_bins_hold_what_was_counted_whatever_was_kept() -> None:
    """By the two upper bits of the exponent: below 2^-63, below 2, below 2^65, the rest."""
    bracket = Bracket(0, TOP, 29)
    total = count(torch.tensor([0.0, 1e-30, 1.0]), bracket)
    assert total.binned().tolist() == [2, 1, 0, 0]
    assert total.add(count(torch.tensor([3.0, -1.5, 1e30]), bracket)).binned().tolist() == [2, 2, 1, 1]
    many = torch.full((100,), 3.0)  # kept as a histogram
    assert total.add(count(many, bracket)).binned().tolist() == [2, 2, 101, 1]
    assert count(torch.empty(0), bracket).binned().tolist() == [0, 0, 0, 0]
