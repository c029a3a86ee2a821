"""A checkpoint rounded while it is read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.checkpoint.rounded import RoundedCheckpoint

ODD = torch.tensor([1.003, -2.0, 3.14159, 0.0])


def rounded(**tensors: torch.Tensor) -> tuple[MemoryCheckpoint, RoundedCheckpoint]:
    inner = MemoryCheckpoint(tensors)
    return inner, RoundedCheckpoint(inner, "BF16")


def read(checkpoint: RoundedCheckpoint, name: str) -> bytes:
    buffer = bytearray(checkpoint.tensors[name].nbytes)
    checkpoint.read_into(name, 0, memoryview(buffer))
    return bytes(buffer)


def test_numbers_are_those_that_a_file_of_the_dtype_would_hold():
    _, view = rounded(w=ODD)
    assert view.tensors["w"].dtype == "BF16"
    assert read(view, "w") == ODD.to(torch.bfloat16).view(torch.uint8).numpy().tobytes()


@given(st.integers(0, 8), st.integers(0, 8))
def test_any_range_of_bytes_is_the_same_part_of_the_whole(a: int, b: int):
    start, stop = min(a, b), max(a, b)
    _, view = rounded(w=ODD)
    buffer = bytearray(stop - start)
    view.read_into("w", start, memoryview(buffer))
    assert bytes(buffer) == read(view, "w")[start:stop]


@pytest.mark.parametrize("tensor", [ODD.to(torch.bfloat16), torch.arange(3)])
def test_what_is_of_the_dtype_already_and_integers_are_passed_on(tensor: torch.Tensor):
    inner, view = rounded(w=tensor)
    assert view.tensors["w"] == inner.tensors["w"]
    assert view.identity("w") == inner.identity("w")
    assert view.extent("w") == inner.extent("w")
    assert read(view, "w") == tensor.view(torch.uint8).numpy().tobytes()


def test_a_rounded_tensor_has_another_identity_and_no_place_in_a_file():
    inner, view = rounded(w=ODD)
    assert view.identity("w") != inner.identity("w")
    assert view.identity("w") == RoundedCheckpoint(inner, "BF16").identity("w")
    assert view.identity("w") != RoundedCheckpoint(inner, "F16").identity("w")
    assert view.extent("w") is None
    assert view.parts() == (inner, view)


def test_what_the_inner_reader_holds_is_counted_once(tmp_path):
    import surgery

    (tmp_path / "m").mkdir()
    torch.save(
        {"w": torch.zeros(64)}, tmp_path / "m" / "pytorch_model.bin", _use_new_zipfile_serialization=False
    )
    text = "surgery: 1\nmodels: {a: {source: ./m, dtype: bfloat16}}\noutput: {model: a, to: ./out}\n"
    plan = surgery.loads(text, folder=tmp_path).resolve().plan
    read = {part for checkpoint in plan.checkpoints.values() for part in checkpoint.parts()}
    assert (
        sum(part.whole_file_bytes() for part in read) == (tmp_path / "m" / "pytorch_model.bin").stat().st_size
    )
