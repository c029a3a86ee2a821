"""What headers alone show: a delta of another model, and files that are not as they were written."""

from __future__ import annotations

import torch

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery_delta._read import read_headers
from surgery_delta.bits import Bits, BitsOp
from surgery_delta.quantize import Quantize, quantize
from surgery_delta.sparse import Sparse, sparse
from tests.plugins.delta.conftest import normal, stored

MODEL = normal(3, 9)


def problems(base, tensors, p):
    return [*read_headers(MemoryCheckpoint(tensors), MemoryCheckpoint(base), p).problems()]


def named(made, name="w"):
    return {f"{name}.{suffix}": value.clone() for suffix, value in made.items()}


def test_what_fits_is_sorted_by_tensor():
    made = named(stored(BitsOp, MODEL))
    found = read_headers(
        MemoryCheckpoint(made | {"n": torch.ones(2)}),
        MemoryCheckpoint({"w": MODEL, "n": torch.ones(2)}),
        Bits(),
    )
    assert (list(found.changes), found.whole, [*found.problems()]) == (["w"], ["n"], [])


def test_tensors_that_the_base_lacks_are_counted_once():
    tensors = named(stored(BitsOp, MODEL), "v") | named(stored(BitsOp, MODEL), "w") | {"n": torch.ones(1)}
    assert problems({"x": MODEL}, tensors, Bits()) == ["it has no v (and 2 more such tensors)"]
    assert problems({"w": MODEL, "v": MODEL.clone()}, tensors, Bits()) == ["it has no n"]


def test_other_shapes_are_told_with_what_would_fit():
    wide, tall = torch.zeros(3, 17), torch.zeros(4, 9)
    assert problems({"w": wide}, named(stored(BitsOp, MODEL)), Bits()) == [
        "its w is (3, 17), a change of which has base (1,), scale (1,), signs (3, 1, 3); "
        "got base (1,), scale (1,), signs (3, 1, 2)"
    ]
    assert problems({"w": tall}, named(stored(sparse, MODEL)), Sparse()) == [
        "its w is (4, 9), a change of which has base (1,), columns (2,), starts (5,), values (2,); "
        "got base (1,), columns (2,), starts (4,), values (2,)"
    ]
    assert len(problems({"w": tall}, named(stored(quantize, MODEL)), Quantize())) == 1
    assert problems({"n": torch.ones(3)}, {"n": torch.ones(2)}, Bits()) == [
        "its n is (3,), the delta's is (2,)"
    ]


def test_a_part_that_is_missing_is_told():
    made = named(stored(BitsOp, MODEL))
    del made["w.signs"]
    assert problems({"w": MODEL}, made, Bits()) == [
        "its w is (3, 9), a change of which has base (1,), scale (1,), signs (3, 1, 2); got base (1,), scale (1,)"
    ]
