from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.cli.words import count, duration, millions, ranges


def test_one_is_singular():
    assert [count(n, "tensor") for n in (0, 1, 2, 90_000)] == [
        "0 tensors",
        "1 tensor",
        "2 tensors",
        "90,000 tensors",
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (5712, "5.712 K"),
        (134_515_008, "134.5 M"),
        (8_030_261_248, "8.03 B"),
        (10**12, "1 T"),
    ],
)
def test_parameters_have_four_digits(number, text):
    assert millions(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "less than 1 s"),
        (1.4, "about 1 s"),
        (89.0, "about 89 s"),
        (90.0, "about 2 min"),
        (3599.0, "about 1 h 0 min"),
        (7500.0, "about 2 h 5 min"),
    ],
)
def test_durations_are_rough(seconds, text):
    assert duration(seconds) == text


def test_indices_are_ranges():
    assert ranges([]) == ""
    assert ranges([3]) == "3"
    assert ranges([5, 0, 1, 2, 7, 6]) == "0-2, 5-7"


@given(st.sets(st.integers(0, 40)))
def test_ranges_say_exactly_the_indices(indices):
    found = set()
    for part in filter(None, ranges(indices).split(", ")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    assert found == indices
