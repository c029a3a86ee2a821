from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.recipe.yaml import read_yaml
from surgery.search.space import space_of
from surgery.trials import Gene

TEXT = """\
steps:
  m:
    a: ${search: [0, 1.5]}
    b: &w ${search: {range: [0.01, 100], log: true}}
    c: [*w, 7]
    d: ${search: {choices: [2, 3, x]}}
    e: ${search: {range: [0, 1], by: layers(2)}}
"""


@pytest.fixture
def space():
    return space_of(read_yaml(TEXT))


def test_the_centre_is_the_middle_of_every_range(space):
    assert space.centre == (0.75, 1.0, 3, 0.5, 0.5)


def test_filling_puts_each_value_into_its_place(space):
    filled = space.filled((0.1, 0.2, "x", 0.3, 0.4))
    assert filled.data == {"steps": {"m": {"a": 0.1, "b": 0.2, "c": [0.2, 7], "d": "x", "e": [0.3, 0.4]}}}
    assert filled.holes == ()


def test_filling_leaves_the_document_as_it_was(space):
    before = str(space.document.data)
    space.filled(space.centre)
    assert str(space.document.data) == before


def test_corners_hold_both_ends_and_every_choice(space):
    corners = list(space.corners())
    assert corners[0] == (0.0, 0.01, 2, 0.0, 0.0)
    assert corners[1] == (1.5, 100.0, 3, 1.0, 1.0)
    assert corners[2][2] == "x"
    assert len(corners) == 3


def test_the_space_tells_its_size(space):
    assert space.describe() == "4 numbers and 1 choice of 3"


def test_a_gene_maps_the_unit_interval_to_its_values():
    assert [Gene("g", 1, 3).at(share) for share in (0, 0.25, 1)] == [1, 1.5, 3]
    assert [Gene("g", 0.01, 100, log=True).at(share) for share in (0, 0.5, 1)] == [0.01, 1, 100]
    assert [Gene("g", choices=("a", "b")).at(share) for share in (0, 0.49, 0.5, 1)] == ["a", "a", "b", "b"]


@given(st.floats(-1, 2), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_values_lie_in_the_range_and_survive_six_digits(share, low, width):
    value = Gene("g", low, low + width).at(share)
    assert low <= value <= low + width
    assert value in (low, low + width) or float(f"{value:.6g}") == value
    assert math.isfinite(value)
