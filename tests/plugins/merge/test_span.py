"""Means of directions from cosines, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from surgery_merge._span import mean_direction, on_sphere

RIGHT = np.eye(2)


def test_the_mean_of_two_right_angles_is_half_way():
    c, size = mean_direction(RIGHT, [1, 1])
    assert c.tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    assert size == pytest.approx(math.sqrt(0.5))  # (1/2, 1/2) is that long


def test_only_the_ratio_of_shares_matters():
    c, size = mean_direction(RIGHT, [3, 4])
    assert c.tolist() == pytest.approx([0.6, 0.8])
    assert size == pytest.approx(5 / 7)
    assert mean_direction(RIGHT, [30, 40])[0].tolist() == pytest.approx(c.tolist())


def test_a_negative_share_turns_away():
    c, _ = mean_direction(RIGHT, [3, -4])
    assert c.tolist() == pytest.approx([0.6, -0.8])


def test_what_has_no_direction_takes_no_part():
    c, size = mean_direction(np.diag([1.0, 0.0]), [1, 5])
    assert c.tolist() == [1.0, 0.0]
    assert size == 1.0


@pytest.mark.parametrize("C", [np.array([[1.0, -1.0], [-1.0, 1.0]]), np.zeros((2, 2))])
def test_directions_that_cancel_have_no_mean(C):
    c, size = mean_direction(C, [1, 1])
    assert c.tolist() == [0.0, 0.0]
    assert size == 0.0


def test_inputs_are_brought_to_the_sphere_and_then_to_its_radius():
    assert on_sphere(np.array([0.6, 0.8, 0.0]), np.array([2.0, 4.0, 0.0]), 10.0) == [3.0, 2.0, 0.0]
