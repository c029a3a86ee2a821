"""merge.gram: the matrix that calibration finds, symmetric to the last bit, and nothing for what is no Linear."""

from __future__ import annotations

import pytest
import torch

from surgery.ops import Need, Signature, Space
from surgery.tensors import Role, TensorSpec
from surgery.testing import OpCase
from surgery_merge.gram import gram

UP = Role("mlp.up", 0)
FOUND = torch.tensor([[4.0, 1.0], [1.0 + 2**-40, 2.0]], dtype=torch.float64)


def signature(shape, role):
    spec = TensorSpec("x.weight", shape, "BF16")
    return Signature(spec.name, (spec,), None, (), role, spec.numel)


def test_the_two_halves_of_what_is_found_are_averaged():
    OpCase(
        gram,
        {"targets": "all"},
        models=[[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]],
        statistics={Need.GRAM: FOUND},
        expected=[[4.0, 1.0], [1.0, 2.0]],
    ).check()


def test_it_is_square_in_the_inputs_and_float32():
    told = signature((6, 4), UP)
    assert gram.output(told, gram.params()) == TensorSpec("x.weight", (4, 4), "F32")
    assert gram.workspace(told, gram.params()) == 3 * 8 * 16
    assert (gram.gives, gram.rest, gram.needs) == (Space.STATISTIC, "drop", (Need.GRAM,))


@pytest.mark.parametrize(
    ("shape", "role", "targets", "left_out"),
    [
        ((6, 4), UP, "linear", False),
        ((6, 4), Role("head"), "linear", True),
        ((6, 4), Role("head"), "all", False),
        ((6, 4), Role("embed"), "all", True),
        ((4,), Role("norm", 0), "all", True),
    ],
)
def test_what_is_no_linear_is_left_out(shape, role, targets, left_out):
    assert (gram.simplify(signature(shape, role), gram.params(targets=targets)) == 0) is left_out


def test_experts_in_one_tensor_are_refused():
    assert gram.check(signature((3, 6, 4), Role("experts.up", 0)), gram.params()) == (
        "(3, 6, 4) holds several experts, whose inputs differ; leave it out with `where:`"
    )
