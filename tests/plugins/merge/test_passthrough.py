"""merge.passthrough: bytes, or bytes scaled."""

from __future__ import annotations

import torch

from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.passthrough import passthrough


def test_half_of_a_model():
    OpCase(
        passthrough,
        {"scale": 0.5},
        models=[torch.tensor([1.5, -3.0], dtype=torch.bfloat16)],
        expected=[0.75, -1.5],
        tolerance=0,
        identity=[Identity({"scale": None}), Identity({"scale": 1.0})],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_no_scale_copies_nan_and_negative_zero_too():
    model = torch.tensor([float("nan"), -0.0, float("inf")])
    assert same_bytes(run_op(passthrough, {}, [model]), model)


def test_scale_zero_silences():
    assert torch.equal(run_op(passthrough, {"scale": 0}, [torch.randn(3, 3)]).abs(), torch.zeros(3, 3))


def test_numbers_are_rounded_once_when_they_are_stored():
    scaled = run_op(passthrough, {"scale": 1000}, [torch.tensor([1.003])])
    assert scaled.to(torch.bfloat16).item() == 1004.0


def test_a_ramp_scales_by_depth():
    assert run_op(passthrough, {"scale": [0, 1]}, [torch.ones(1)], depth=0.25).item() == 0.25
