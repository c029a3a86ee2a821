"""A base changed by a delta while it is read: any range, any base that fits, and none that does not."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.errors import CheckpointError
from surgery_delta._applied import DeltaCheckpoint
from surgery_delta._read import read_headers
from surgery_delta.basis import basis
from surgery_delta.bits import Bits, BitsOp
from surgery_delta.kronecker import kronecker
from surgery_delta.lowrank_sparse import lowrank_sparse
from surgery_delta.quantize import quantize
from surgery_delta.reflect import reflect
from surgery_delta.sparse import sparse
from surgery_delta.tucker import tucker
from tests.plugins.delta.conftest import applied, normal, read, stored

OPS = {
    "basis": basis,
    "bits": BitsOp,
    "kronecker": kronecker,
    "lowrank_sparse": lowrank_sparse,
    "quantize": quantize,
    "reflect": reflect,
    "sparse": sparse,
    "tucker": tucker,
}
PARAMS = {"basis": {"basis": 20, "rank": 2, "sweeps": 1}, "reflect": {"side": "both", "sweeps": 2}}
BASE, MODEL = normal(1100, 132), normal(1100, 132, seed=1)  # blocks of 496 rows
SIZE = 4 * 1100 * 132


@functools.cache
def made_by(codec: str) -> dict[str, torch.Tensor]:
    """Return what a codec stores of the change."""
    return stored(OPS[codec], MODEL, BASE, **PARAMS.get(codec, {}))


@pytest.mark.parametrize("codec", OPS)
def test_any_range_has_the_bytes_of_the_whole(codec):
    checkpoint = applied(OPS[codec], made_by(codec), BASE, **PARAMS.get(codec, {}))
    whole = read(checkpoint).view(-1).view(torch.uint8)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, SIZE - 1), st.integers(1, SIZE))
    def check(start, length):
        length = min(length, SIZE - start)
        assert torch.equal(read(checkpoint, start=start, size=length), whole[start : start + length])

    check()


@pytest.mark.parametrize("codec", OPS)
def test_another_base_is_refused_where_it_differs(codec):
    other = BASE.clone()
    other[700, 3] += 1
    checkpoint = applied(OPS[codec], made_by(codec), other, **PARAMS.get(codec, {}))
    read(checkpoint, size=4 * 132 * 496)  # the first block is the base's
    with pytest.raises(CheckpointError) as error:
        read(checkpoint)
    assert str(error.value) == (
        "./base: rows 496 to 991 of w are not those that the delta was taken of; name `org/base` as `source:`"
    )


@pytest.mark.parametrize(
    ("dtype", "read_as", "native"),
    [(torch.bfloat16, "F32", "BF16"), (torch.float32, "F32", "F32"), (torch.float64, "F64", "F64")],
)
def test_a_sum_is_float32_or_wider_and_at_home_in_the_bases_dtype(dtype, read_as, native):
    base = BASE[:4].to(dtype)
    checkpoint = applied(BitsOp, stored(BitsOp, MODEL[:4], base.float()), base)
    assert (checkpoint.tensors["w"].dtype, checkpoint.native["w"]) == (read_as, native)


def made_of(base: dict[str, Any], delta: dict[str, Any]) -> DeltaCheckpoint:
    bases, deltas = MemoryCheckpoint(base), MemoryCheckpoint(delta)
    found = read_headers(deltas, bases, Bits())
    assert [*found.problems()] == []
    return DeltaCheckpoint(bases, deltas, found.changes, found.whole, "base")


class Told(MemoryCheckpoint):
    """Remembers what it is told to expect; would be held whole."""

    expected: tuple[str, ...] = ()

    def whole_file_bytes(self) -> int:
        return 1000

    def expect(self, names: Any) -> None:
        self.expected = tuple(names)


def test_whole_tensors_are_the_deltas_and_others_the_bases():
    made = {f"w.{suffix}": value for suffix, value in stored(BitsOp, MODEL[:2], BASE[:2]).items()}
    base = Told({"w": BASE[:2].clone(), "n": torch.ones(2), "x": torch.zeros(3)})
    delta = Told({**made, "n": torch.tensor([5.0, 6.0])})
    found = read_headers(delta, base, Bits())
    checkpoint = DeltaCheckpoint(base, delta, found.changes, found.whole, "base")
    assert list(checkpoint.tensors) == ["w", "n", "x"]
    assert read(checkpoint, "n").tolist() == [5, 6]
    assert read(checkpoint, "x").tolist() == [0, 0, 0]
    checkpoint.expect(["w", "n", "x"])
    assert base.expected == ("w", "x")
    assert delta.expected == ("w.signs", "w.scale", "w.base", "n")
    assert checkpoint.parts() == (base, delta, checkpoint)
    checkpoint.prefetch("w", 0, 48)
    assert checkpoint.extent("w") is None
    assert checkpoint.doing() == ""
    # what base and delta hold is counted once, as theirs
    assert [part.whole_file_bytes() for part in checkpoint.parts()] == [1000, 1000, 0]


def test_the_identity_changes_with_whatever_it_rests_on():
    made = {f"w.{suffix}": value for suffix, value in stored(BitsOp, MODEL[:2], BASE[:2]).items()}
    base = {"w": BASE[:2].clone(), "n": torch.ones(2)}
    first = made_of(base, made).identity("w")
    assert made_of(base, made).identity("w") == first
    assert made_of(base | {"w": BASE[1:3].clone()}, made).identity("w") != first
    assert made_of(base, made | {"w.scale": torch.ones(1)}).identity("w") != first
    assert made_of(base, made).identity("n") == MemoryCheckpoint(base).identity("n")
