"""Integer codes: numbers by hand, laws, and compressed-tensors' own arithmetic."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from compressed_tensors.quantization.utils import calculate_qparams
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.math.packing import unpack
from surgery.tensors import Role
from surgery.testing import run_emitting_op
from surgery_quant._integers import _shrinks
from surgery_quant.int4 import int4
from surgery_quant.int8 import int8

UP = Role("mlp.up", layer=0)
NAME = "model.layers.0.mlp.up_proj.weight"
STEM = NAME.removesuffix("weight")


def made(op, w, rows=None, **params):
    result = run_emitting_op(op, params, [torch.as_tensor(w)], name=NAME, role=UP, rows=rows)
    return {name.removeprefix(STEM): value for name, value in result.items()}


def codes(result, bits, columns):
    return unpack(result["weight_packed"], bits, columns) - (1 << (bits - 1))


def zeros(result, bits, rows):
    return unpack(result["weight_zero_point"], bits, rows, axis=0) - (1 << (bits - 1))


def values(result, bits, shape, group):
    """Decode by the formula (q - z)·s, in float32."""
    q = codes(result, bits, shape[1]).float().view(shape[0], -1, group)
    if "weight_zero_point" in result:
        q -= zeros(result, bits, shape[0]).float().unsqueeze(-1)
    return (q * result["weight_scale"].float().unsqueeze(-1)).view(shape)


def test_four_bits_by_hand():
    """max|w| 15 → s = 15/7.5 = 2; 15/2 = 7.5 → 8 → clamped to 7, -7.5 → -8, 3/2 = 1.5 → 2, 1/2 → 0."""
    result = made(int4, [[15.0, -15, 3, 1, 0, 2, -2, 5]], group_size=8)
    assert result["weight_scale"].tolist() == [[2.0]]
    assert codes(result, 4, 8).tolist() == [[7, -8, 2, 0, 0, 1, -1, 2]]
    assert result["weight_shape"].tolist() == [1, 8]
    assert f"{result['weight_packed'].item() & 0xFFFFFFFF:08x}" == "a7988a0f"


def test_eight_bits_by_hand():
    """max|w| 255 → s = 2; 254/2 = 127, -255/2 = -127.5 → -128, 5/2 = 2.5 → 2 (ties to even)."""
    result = made(int8, [[254.0, -255, 5, 6]])
    assert result["weight_scale"].tolist() == [[2.0]]
    assert codes(result, 8, 4).tolist() == [[127, -128, 2, 3]]


def test_asymmetric_by_hand():
    """Range 0 to 15 → s = 1, z = round(-8 - 0) = -8: every integer from 0 to 15 is exact."""
    result = made(int4, [list(map(float, range(16)))], group_size=16, symmetric=False)
    assert result["weight_scale"].tolist() == [[1.0]]
    assert zeros(result, 4, 1).tolist() == [[-8]]
    assert values(result, 4, (1, 16), 16).tolist() == [list(map(float, range(16)))]


def test_a_range_that_does_not_hold_zero_is_widened():
    result = made(int4, [[10.0, 12, 14, 15, 10, 12, 14, 15]], group_size=8, symmetric=False)
    assert result["weight_scale"].tolist() == [[1.0]]
    assert zeros(result, 4, 1).tolist() == [[-8]]


def test_with_dynamic_activations_codes_are_bytes():
    result = made(int8, [[254.0, -255, 5, 6]], activations="dynamic")
    assert sorted(result) == ["weight", "weight_scale"]
    assert result["weight"].dtype == torch.int8
    assert result["weight"].tolist() == [[127, -128, 2, 3]]


def test_each_group_has_its_scale():
    result = made(int4, [[7.5] * 8 + [15.0] * 8], group_size=8)
    assert result["weight_scale"].tolist() == [[1.0, 2.0]]


def test_a_group_of_zeros_has_scale_one_and_codes_zero():
    for symmetric in (True, False):
        result = made(int4, torch.zeros(2, 8), group_size=8, symmetric=symmetric)
        assert result["weight_scale"].tolist() == [[1.0], [1.0]]
        assert values(result, 4, (2, 8), 8).tolist() == torch.zeros(2, 8).tolist()


def test_scales_are_rounded_before_codes_are_computed():
    """s = 1/7.5 is 0.1338 in bfloat16, 0.1333 before: 0.0667 is above half the latter, below half the former."""
    w = torch.tensor([[1.0, 0.0667, 0, 0, 0, 0, 0, 0]])
    result = made(int4, w, group_size=8)
    s = result["weight_scale"].float()
    assert s.item() == torch.tensor(1 / 7.5).bfloat16().float().item()
    assert codes(result, 4, 8)[0, :2].tolist() == [7, 0]


@pytest.mark.parametrize(
    ("dtype", "stored"), [("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "bfloat16")]
)
def test_scales_have_the_models_dtype_or_one_that_casts_to_it_exactly(dtype, stored):
    result = made(int4, torch.randn(2, 8).to(getattr(torch, dtype)), group_size=8)
    assert result["weight_scale"].dtype == getattr(torch, stored)


@given(
    rows=st.integers(1, 20),
    groups=st.integers(1, 3),
    symmetric=st.booleans(),
    search=st.booleans(),
    bits=st.sampled_from([4, 8]),
    cut=st.integers(1, 9),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_cut_into_rows_is_whole_and_errors_are_bounded(rows, groups, symmetric, search, bits, cut, seed):
    w = torch.randn(rows, 16 * groups, generator=torch.Generator().manual_seed(seed)).bfloat16()
    op = int4 if bits == 4 else int8
    params = {"group_size": 16, "symmetric": symmetric, "scales": "mse" if search else "absmax"}
    whole = made(op, w, **params)
    parts = made(op, w, rows=cut, **params)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    if not search:  # a smaller range cuts off what lies outside
        step = whole["weight_scale"].float().repeat_interleave(16, 1)
        error = (values(whole, bits, w.shape, 16) - w.float()).abs()
        # Half a step; at the ends half a step more (the highest code is 7, not 7.5; zero points are integers); and a
        # scale of 8 bits is off by at most 2^-9 of itself, as is a decoded value, that is by codes / 512 steps each.
        codes = (1 << bits) if not symmetric else 1 << (bits - 1)
        assert bool((error <= step * (1.0001 + 2 * codes / 512)).all())
        if not symmetric:
            return
        inside = w.float().abs() < step * ((1 << (bits - 1)) - 1.5)
        assert bool((error[inside] <= step[inside] * 0.5001).all())


def test_a_smaller_range_is_taken_where_it_rounds_better():
    """The search never does worse in its own norm; where one weight of a group stands out it does better."""
    w = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    w[:, 0] = 6
    plain, searched = (
        values(made(int4, w, group_size=64, scales=how), 4, w.shape, 64) for how in ("absmax", "mse")
    )

    def loss(v):
        return (v - w).abs().pow(2.4).sum(1)

    assert bool((loss(searched) <= loss(plain)).all())
    assert int((loss(searched) < loss(plain)).sum()) > 32
    assert list(_shrinks())[:2] == [1.0, 0.99]
    assert len(list(_shrinks())) == 20


def test_scale_equivariance():
    """Four times the weights: four times the scales, the same codes."""
    w = torch.randn(8, 32)
    a, b = made(int4, w, group_size=32), made(int4, 4 * w, group_size=32)
    assert torch.equal(a["weight_packed"], b["weight_packed"])
    assert torch.equal(4 * a["weight_scale"], b["weight_scale"])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("op", "bits"), [(int4, 4), (int8, 8)])
def test_scales_and_zero_points_are_compressed_tensors(op, bits, symmetric):
    """The library's own formula in float32 gives the same scales and zero points once rounded to bfloat16."""
    w = torch.randn(16, 64).bfloat16()
    result = made(op, w, group_size=16, symmetric=symmetric)
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=16)
    groups = w.float().view(16, 4, 16)
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    assert torch.equal(result["weight_scale"], scale.bfloat16())
    if not symmetric:
        low = groups.amin(-1).clamp(max=0)
        expected = torch.round(-(1 << (bits - 1)) - low / scale.bfloat16().float())
        limit = 1 << (bits - 1)
        assert torch.equal(zeros(result, bits, 16).float(), expected.clamp(-limit, limit - 1))
        assert zero.shape == expected.shape
    q = codes(result, bits, 64).to(torch.int8)
    own = dequantize(
        q,
        result["weight_scale"].float(),
        zeros(result, bits, 16).to(torch.int8) if not symmetric else None,
        args,
    )
    assert torch.equal(own.float(), values(result, bits, (16, 64), 16))
