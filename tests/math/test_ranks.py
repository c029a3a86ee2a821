"""Ranks from shapes: what plans know before a number is read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from surgery.math.ranks import (
    draws_needed,
    exact_bytes,
    flattened,
    is_small,
    largest_bytes,
    randomized_bytes,
    rank_for_ratio,
    saves,
    sketch_width,
)


def test_a_convolution_is_seen_as_out_by_in_times_window():
    assert flattened((64, 3, 7, 7)) == (64, 147)
    assert flattened((5, 4)) == (5, 4)
    assert flattened((5,)) == (5, 1)


@pytest.mark.parametrize(
    ("shape", "ratio", "rank"),
    [
        ((4096, 4096), 0.8, 1638),  # 0.8 · 2048 = 1638.4
        ((200, 200), 0.29, 29),  # 0.29 · 100, although the float 0.29 times 100 is below 29
        ((4, 4), 0.4, 0),
        ((4, 12), 1.0, 3),
        ((0, 0), 0.5, 0),
    ],
)
def test_a_ratio_is_the_size_of_the_factors(shape, ratio, rank):
    assert rank_for_ratio(shape, ratio) == rank


def test_the_largest_rank_that_saves_is_below_the_break_even():
    assert saves((4, 4), 1)  # 8 numbers for 16
    assert not saves((4, 4), 2)  # 16 for 16
    assert saves((4096, 4096), 2047)
    assert not saves((4096, 4096), 2048)


def test_a_sketch_is_eight_columns_wider_than_the_rank_and_no_wider_than_the_matrix():
    assert sketch_width((100, 50), 10) == 18
    assert sketch_width((100, 50), 45) == 50
    assert draws_needed((100, 50), 10) == 50 * 18


def test_draws_never_exceed_the_elements():
    for rank in range(1, 8):
        assert draws_needed((7, 9), rank) <= 63


def test_up_to_1024_rows_or_columns_a_matrix_is_decomposed_whole():
    assert is_small((1024, 9000))
    assert is_small((9000, 1024))
    assert not is_small((1025, 9000))
    assert largest_bytes((1024, 9000), 4) == exact_bytes((1024, 9000))
    assert largest_bytes((1025, 9000), 4) == randomized_bytes((1025, 9000), 4)


def test_no_torch_is_imported():
    code = "import sys, surgery.math.ranks; print('torch' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "False\n"
