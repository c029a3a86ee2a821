from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.math.stretch import fill_from_blocks, stretch
from surgery.tensors import TensorSpec

STORED = torch.arange(12, dtype=torch.int16).view(4, 3)
SPEC = TensorSpec("w", (4, 3), "I16")


def test_a_stretch_is_elements_in_their_dtype():
    found = stretch(MemoryCheckpoint({"w": STORED}), SPEC, 2, 5)
    assert (found.tolist(), found.dtype) == ([2, 3, 4, 5, 6], torch.int16)


@given(st.integers(0, 24), st.integers(0, 24), st.integers(1, 5))
def test_any_range_of_bytes_comes_from_whole_blocks(start, length, rows):
    asked = []

    def block(first):
        asked.append(first)
        return STORED[first : first + rows].contiguous()

    buffer = bytearray(min(length, 24 - start))
    fill_from_blocks(SPEC, rows, start, memoryview(buffer), block)
    assert bytes(buffer) == STORED.numpy().tobytes()[start : start + len(buffer)]
    assert all(first % rows == 0 for first in asked)


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 25), (24, 1)])
def test_bytes_outside_of_the_tensor_are_refused(start, length):
    with pytest.raises(ValueError, match=f"w: bytes {start} to {start + length} of 24"):
        fill_from_blocks(SPEC, 1, start, memoryview(bytearray(length)), lambda first: STORED)
