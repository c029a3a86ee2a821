"""What headers alone show: a delta of another model, and files that are not as they were written."""

from __future__ import annotations

import pytest
import torch

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery_delta._kinds import KINDS
from surgery_delta._read import read_headers
from surgery_delta.basis import basis
from surgery_delta.bits import Bits, BitsOp
from surgery_delta.kronecker import kronecker
from surgery_delta.lowrank_sparse import lowrank_sparse
from surgery_delta.quantize import Quantize, quantize
from surgery_delta.reflect import reflect
from surgery_delta.sparse import Sparse, sparse
from surgery_delta.tucker import tucker
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


@pytest.mark.parametrize(
    ("op", "shape", "params", "other", "said"),
    [
        (
            tucker,
            (4, 6),
            {"rank": [2, 2]},
            (4, 3, 2),
            "base (1,), core (2, 2), factor0 (4, 2), factor1 (6, 2)",
        ),
        (kronecker, (4, 8), {"terms": 1}, (4, 6), "base (1,), left (1, 4, 4), right (1, 1, 2)"),
        (reflect, (4, 8), {"side": "both"}, (4, 6), "base (1,), u_in (4, 2), u_out (4, 1)"),
    ],
)
def test_shapes_that_cannot_be_cut_so_have_no_such_parts(op, shape, params, other, said):
    p = KINDS[op.name.removeprefix("delta.")].params(**params)
    assert problems({"w": torch.zeros(other)}, named(stored(op, normal(*shape), **params)), p) == [
        f"its w is {other}, a change of which has no such parts; got {said}"
    ]


@pytest.mark.parametrize(
    ("op", "params", "fit"),
    [
        (tucker, {"rank": 2}, "base (1,), core (2, 2), factor0 (5, 2), factor1 (6, 2)"),
        (
            lowrank_sparse,
            {"rank": 2},
            "base (1,), columns (1,), left (5, 2), right (2, 6), starts (6,), values (1,)",
        ),
        (basis, {"basis": 9, "rank": 1}, "alpha (6,), base (1,), beta (5,)"),
    ],
)
def test_another_models_delta_is_told_with_what_would_fit(op, params, fit):
    p = KINDS[op.name.removeprefix("delta.")].params(**params)
    made = named(stored(op, normal(4, 6), **params))
    (said,) = problems({"w": torch.zeros(5, 6)}, made, p)
    assert said.startswith(f"its w is (5, 6), a change of which has {fit}; got ")


def test_a_part_that_is_missing_is_told():
    made = named(stored(BitsOp, MODEL))
    del made["w.signs"]
    assert problems({"w": MODEL}, made, Bits()) == [
        "its w is (3, 9), a change of which has base (1,), scale (1,), signs (3, 1, 2); got base (1,), scale (1,)"
    ]
