from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.report.axes import clip, linear, logarithmic, number, safe


def test_ticks_are_round_and_enclose_the_values():
    scale = linear([3.2, 96.0], 0, 100)
    assert scale.ticks == (0, 20, 40, 60, 80, 100)
    assert (scale.at(0), scale.at(50), scale.at(100)) == (0, 50, 100)
    assert [scale.label(tick) for tick in scale.ticks] == ["0", "20", "40", "60", "80", "100"]


def test_labels_have_the_digits_that_tell_neighbours_apart():
    scale = linear([0.0, 0.01], 0, 1)
    assert [scale.label(tick) for tick in scale.ticks] == [
        "0.000",
        "0.002",
        "0.004",
        "0.006",
        "0.008",
        "0.010",
    ]
    assert linear([0, 5e9], 0, 1).label(1e9) == "1e9"


def test_zero_is_on_the_axis_when_asked_for():
    assert linear([250, 480], 0, 1).ticks[0] == 250
    assert linear([250, 480], 0, 1, zero=True).ticks == (0, 100, 200, 300, 400, 500)
    assert linear([-3, -1], 0, 1, zero=True).ticks[-1] == 0


@pytest.mark.parametrize("value", [0.0, 5.0, -2.0, 1e-30, 1e30])
def test_values_that_are_all_the_same_have_room(value):
    scale = linear([value], 0, 100)
    assert scale.low < value < scale.high or value == 0
    assert 0 <= scale.at(value) <= 100


def test_a_logarithmic_axis_has_powers_of_ten():
    assert logarithmic([0.002, 30], 0, 1).ticks == (0.001, 0.01, 0.1, 1, 10, 100)
    assert logarithmic([2, 7], 0, 1).ticks == (1, 2, 5, 10)
    assert logarithmic([1.0], 0, 1).ticks == (1, 2, 5, 10)
    assert len(logarithmic([1e-30, 1e30], 0, 1).ticks) <= 8
    assert logarithmic([1, 1e4], 0, 80).at(100) == pytest.approx(40)


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=5), st.booleans())
def test_every_value_lies_on_its_axis(values, zero):
    scale = linear(values, 10, 20, zero=zero)
    assert 2 <= len(scale.ticks) <= 9
    for value in values:
        assert 10 - 1e-6 <= scale.at(value) <= 20 + 1e-6


def test_text_cannot_leave_its_place():
    assert safe('<b> & "x"') == "&lt;b&gt; &amp; &quot;x&quot;"
    assert safe("a\u202eb\x00\n") == "a\ufffdb\ufffd\ufffd"


def test_long_names_keep_their_ends():
    assert clip("layers.0.mlp", 8) == "…s.0.mlp"
    assert clip("short", 8) == "short"


def test_numbers_as_people_read_them():
    assert [number(x) for x in (0, 0.5, 12.34567, 1234567, 1e-7)] == [
        "0",
        "0.5",
        "12.35",
        "1,234,567",
        "1.000e-07",
    ]
    assert number(math.inf) == "inf"
