from __future__ import annotations

import math
import struct

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.math.patterns import TOP, device_patterns, largest, pattern_of, patterns_of, value_of

FLOATS = st.floats(width=32)


def test_known_numbers_have_known_patterns() -> None:
    x = torch.tensor([0.0, -0.0, 2.0**-149, -1.0, math.inf])
    assert patterns_of(x).tolist() == [0, 0, 1, 0x3F800000, 0x7F800000]
    assert device_patterns(x).tolist() == [0, 0, 1, 0x3F800000, 0x7F800000]
    assert [value_of(bits) for bits in (0, 1, 0x3F800000)] == [0.0, 2.0**-149, 1.0]
    assert [pattern_of(value) for value in (-3.0, 0.0, 1.0, 1e39)] == [0, 0, 0x3F800000, 0x7F800000]


@given(FLOATS, FLOATS)
@settings(deadline=None)
def test_patterns_are_ordered_like_magnitudes_with_nan_on_top(a: float, b: float) -> None:
    left, right = (int(bits) for bits in patterns_of(torch.tensor([a, b])))
    assert max(left, right) < TOP
    if math.isnan(a) or math.isnan(b):
        assert max(left, right) > 0x7F800000
    else:
        assert (left < right) == (abs(a) < abs(b))
        assert (left == right) == (abs(a) == abs(b))


@given(FLOATS)
def test_a_pattern_and_its_value_are_one_to_one(value: float) -> None:
    bits = struct.unpack("<I", struct.pack("<f", value))[0] & 0x7FFFFFFF
    assert patterns_of(torch.tensor([value])).tolist() == [bits]
    if not math.isnan(value):
        assert value_of(bits) == abs(value)
        assert pattern_of(abs(value)) == bits


def test_any_shape_stride_and_width_is_read() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert patterns_of(x.t()).tolist() == [pattern_of(value) for value in (1.0, 3.0, 2.0, 4.0)]
    assert patterns_of(x.double()).tolist() == patterns_of(x).tolist()
    assert patterns_of(torch.tensor([1e300], dtype=torch.float64)).tolist() == [0x7F800000]


def test_ranks_are_counted_from_the_largest() -> None:
    assert [largest(np.array([5, 9, 9, 1], np.uint32), rank) for rank in (1, 2, 3, 4)] == [9, 9, 5, 1]
