"""fp8 in blocks: codes times the number of their block, ragged at the edges."""

from __future__ import annotations

import pytest
import torch

from surgery.errors import CheckpointError

E4M3 = torch.float8_e4m3fn


def fp8_config(block=(128, 128), **rest):
    block = list(block) if block else None
    return {"quantization_config": {"quant_method": "fp8", "weight_block_size": block, **rest}}


def quantized(weight: torch.Tensor, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Quantize in blocks of 128 x 128, one by one."""
    rows, columns = weight.shape
    codes = torch.empty_like(weight, dtype=E4M3)
    scales = torch.empty(-(-rows // 128), -(-columns // 128))
    for row in range(scales.shape[0]):
        for column in range(scales.shape[1]):
            cell = slice(128 * row, 128 * row + 128), slice(128 * column, 128 * column + 128)
            scales[row, column] = weight[cell].abs().max() / 448
            if dtype == torch.float8_e8m0fnu:
                scales[row, column] = 2 ** scales[row, column].log2().ceil()
            codes[cell] = (weight[cell] / scales[row, column]).clamp(-448, 448).to(E4M3)
    return {"weight": codes, "weight_scale_inv": scales.to(dtype)}


def reference(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the float64 product of every code and the number of its block."""
    codes, scales = tensors["weight"].double(), tensors["weight_scale_inv"].float().double()
    rows, columns = codes.shape
    spread = scales.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
    return codes * spread


def test_the_number_beside_a_block_multiplies_in_spite_of_its_name(opened, values):
    tensors = {
        "weight": torch.tensor([[1.0, -448.0, 0.5, 16.0]]).to(E4M3),
        "weight_scale_inv": torch.tensor([[0.5, 2.0]]),
    }
    assert values(opened(tensors, fp8_config((2, 2)))).tolist() == [[0.5, -224.0, 1.0, 32.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
@pytest.mark.parametrize("shape", [(128, 256), (130, 300), (1, 1)])
def test_blocks_equal_a_float64_reference_rounded_once(opened, values, weight, shape, dtype):
    tensors = quantized(weight(*shape), dtype)
    found = values(opened(tensors, fp8_config()))
    assert torch.equal(found, reference(tensors).float())
    assert (found - weight(*shape)).abs().max() < 0.3


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_without_blocks_there_is_one_number(opened, values, shape):
    tensors = {"weight": torch.ones(2, 3).to(E4M3), "weight_scale_inv": torch.full(shape, 0.25)}
    assert values(opened(tensors, fp8_config(None))).tolist() == [[0.25] * 3] * 2


def test_weights_that_are_not_fp8_pass(opened):
    tensors = {"weight": torch.ones(2, 2).to(E4M3), "weight_scale_inv": torch.ones(1, 1)}
    found = opened(tensors | {"m.norm.weight": torch.ones(2, dtype=torch.bfloat16)}, fp8_config())
    assert {name: spec.dtype for name, spec in found.tensors.items()} == {
        "m.weight": "F32",
        "m.norm.weight": "BF16",
    }


CODES = torch.ones(130, 2).to(E4M3)


@pytest.mark.parametrize(
    ("tensors", "config", "wanted"),
    [
        (
            {"weight": CODES},
            fp8_config(),
            "tensor `m.weight`: needs `m.weight_scale_inv`, which is in no file",
        ),
        (
            {"weight": CODES, "weight_scale_inv": torch.ones(1, 1)},
            fp8_config(),
            "tensor `m.weight_scale_inv`: must be F16 or BF16 or F32 or F8_E8M0 (2, 1) for `m.weight`,"
            " got F32 (1, 1)",
        ),
        (
            {"weight": CODES[None], "weight_scale_inv": torch.ones(1, 1)},
            fp8_config(),
            "tensor `m.weight`: must be a matrix to be decoded, got F8_E4M3 (1, 130, 2)",
        ),
        (
            {"weight": CODES.to(torch.float8_e5m2), "weight_scale_inv": torch.ones(2, 1)},
            fp8_config(),
            "tensor `m.weight`: is F8_E5M2 (130, 2), part of no quantized weight that is known",
        ),
        (
            {"weight": CODES, "weight_scale_inv": torch.ones(2, 1)},
            fp8_config((128, 0)),
            "`quantization_config.weight_block_size` must be two sizes, got [128, 0]",
        ),
        (
            {"weight": CODES, "weight_scale_inv": torch.ones(2, 1)},
            fp8_config(fmt="e5m2"),
            "`quantization_config.fmt` must be `e4m3`, got 'e5m2'",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(opened, tensors, config, wanted):
    with pytest.raises(CheckpointError) as caught:
        opened(tensors, config)
    assert str(caught.value).splitlines()[1:2] == [f"memory: {wanted}"]
