"""Rows of parts as stretches: the table of the module's docstring, and what an index says row by row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.plan.stretches import stretches


def listed(found, row=1):
    return list(found.elements(row, 0, found.count * row))


def test_rows_that_follow_one_another_are_one_stretch():
    found = stretches([4, 8], [5, 6, 7, 0, 9, 9])
    assert listed(found) == [(1, 1, 3), (0, 0, 1), (1, 5, 1), (1, 5, 1)]
    assert (found.count, len(found)) == (6, 4)


def test_all_rows_in_order_are_a_stretch_for_each_part():
    assert listed(stretches([4, 8], None)) == [(0, 0, 4), (1, 0, 8)]
    assert listed(stretches([3], range(3))) == [(0, 0, 3)]


def test_a_range_of_elements_may_cut_rows():
    found = stretches([4, 8], [5, 6, 7, 0, 9, 9])
    # rows of 10 elements: from the middle of the second row to the middle of the fifth
    assert list(found.elements(10, 15, 45)) == [(1, 25, 15), (0, 0, 10), (1, 50, 5)]
    assert list(found.elements(10, 7, 7)) == []


def test_nothing_is_made_of_nothing():
    found = stretches([4], [])
    assert (listed(found), found.count, found.used(0)) == ([], 0, 0)


@pytest.mark.parametrize("row", [-1, 12])
def test_a_row_that_no_part_has_is_refused(row):
    with pytest.raises(ValueError, match=f"row {row} of 12"):
        stretches([4, 8], [0, row])


def test_stretches_are_told_apart():
    made = [stretches([4, 8], index) for index in (None, [0, 4], [4, 0], [0, 4, 5], [0])]
    assert len({found.identity() for found in made}) == len(made)
    assert stretches([4, 8], [0, 4]).identity() == made[1].identity()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.data())
def test_stretches_say_what_the_index_says(lengths, data):
    total = sum(lengths)
    index = data.draw(st.lists(st.integers(0, total - 1), max_size=20)) if total else []
    every = [(part, row) for part, length in enumerate(lengths) for row in range(length)]
    found = stretches(lengths, index)
    rows = [(part, first + i) for part, first, count in listed(found) for i in range(count)]
    assert rows == [every[row] for row in index]
    assert [found.used(part) for part in range(len(lengths))] == [
        sum(p == part for p, _ in rows) for part in range(len(lengths))
    ]
