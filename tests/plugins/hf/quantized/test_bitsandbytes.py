"""bitsandbytes: 4-bit blocks and int8 rows decode to what the library's CPU code makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch

from surgery.checkpoint.open import open_checkpoint
from surgery.errors import CheckpointError
from surgery.testing.tiny import save_tiny
from surgery_hf import surgery_decode_checkpoint

MAP = torch.arange(16.0)


def as_bytes(state: dict) -> torch.Tensor:
    return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)


def blocks(**changes) -> dict[str, torch.Tensor]:
    """Five codes 1, 2, 3, 4, 5 in blocks of 2, the values of the codes being 0 to 15."""
    state = {"quant_type": "nf4", "blocksize": 2, "dtype": "bfloat16", "shape": [1, 5]}
    return {
        "weight": torch.tensor([[0x12], [0x34], [0x50]], dtype=torch.uint8),
        "weight.absmax": torch.tensor([1.0, 10.0, 100.0]),
        "weight.quant_map": MAP,
        "weight.quant_state.bitsandbytes__nf4": as_bytes(state | changes),
    }


def test_the_earlier_element_is_the_higher_half_of_a_byte(opened, values):
    found = opened(blocks())
    assert values(found).tolist() == [[1.0, 2.0, 30.0, 40.0, 500.0]]
    assert list(found.tensors) == ["m.weight"]


def test_absmax_may_be_coded_itself(opened, values):
    tensors = blocks(nested_blocksize=2, nested_dtype="float32", nested_offset=0.5)
    tensors["weight.absmax"] = torch.tensor([0, 1, 255], dtype=torch.uint8)
    tensors["weight.nested_absmax"] = torch.tensor([2.0, 4.0])
    tensors["weight.nested_quant_map"] = torch.arange(256.0) / 255
    # absmax: 0 * 2 + 0.5, 1/255 * 2 + 0.5, 1 * 4 + 0.5
    wanted = [0.5, 1.0, 3 * (2 / 255 + 0.5), 4 * (2 / 255 + 0.5), 22.5]
    assert values(opened(tensors))[0].tolist() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_equal_the_librarys_own(opened, values, weight, kind, double):
    for dtype in (torch.bfloat16, torch.float32):
        codes, state = bnb.quantize_4bit(
            weight(48, 130).to(dtype), quant_type=kind, compress_statistics=double
        )
        stored = {f"weight.{name}": value for name, value in state.as_dict(packed=True).items()}
        found = values(opened({"weight": codes, **stored}))
        assert torch.equal(found.to(dtype), bnb.dequantize_4bit(codes, state))


def test_codes_may_be_stored_as_another_dtype(opened, values, weight):
    codes, state = bnb.quantize_4bit(weight(8, 64), quant_type="nf4", quant_storage=torch.bfloat16)
    assert codes.dtype == torch.bfloat16
    stored = {f"weight.{name}": value for name, value in state.as_dict(packed=True).items()}
    assert torch.equal(values(opened({"weight": codes, **stored})), bnb.dequantize_4bit(codes, state))


def test_int8_rows_equal_the_librarys_own(opened, values, weight):
    codes, scales, _ = bnb.int8_vectorwise_quant(weight(48, 130).half())
    layout = torch.tensor(0, dtype=torch.uint8)
    found = opened({"weight": codes, "SCB": scales, "weight_format": layout, "bias": torch.ones(48)})
    assert torch.equal(values(found), bnb.int8_vectorwise_dequant(codes, scales))
    assert sorted(found.tensors) == ["m.bias", "m.weight"]


STATE = "tensor `m.weight.quant_state.bitsandbytes__nf4`"


@pytest.mark.parametrize(
    ("tensors", "wanted"),
    [
        (
            {name: value for name, value in blocks().items() if name != "weight.absmax"},
            "tensor `m.weight`: needs `m.weight.absmax`, which is in no file",
        ),
        (
            blocks() | {"weight.absmax": torch.ones(2)},
            "tensor `m.weight.absmax`: must be F32 (3,) for `m.weight`, got F32 (2,)",
        ),
        (
            blocks() | {"weight": torch.zeros(4, 1, dtype=torch.uint8)},
            f"{STATE}: needs 3 bytes of codes in `m.weight`, got U8 (4, 1)",
        ),
        (
            blocks(quant_type="af4", blocksize=0),
            f"{STATE}: `quant_type`: input should be 'nf4' or 'fp4', got 'af4'",
        ),
        (
            blocks() | {"weight.quant_state.bitsandbytes__nf4": torch.tensor([123], dtype=torch.uint8)},
            f"{STATE}: is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (
            blocks() | {"weight.quant_state.bitsandbytes__nf4": torch.full((4000,), 91, dtype=torch.uint8)},
            f"{STATE}: is not JSON: maximum recursion depth exceeded while decoding a JSON array from a unicode string",
        ),
        (
            blocks(blocksize=1 << 40),
            f"{STATE}: `blocksize`: input should be less than or equal to 65536, got 1099511627776",
        ),
        (
            blocks(nested_blocksize=256),
            "tensor `m.weight.absmax`: must be U8 (3,) for `m.weight`, got F32 (3,)",
        ),
        (
            {"SCB": torch.ones(2)},
            "tensor `m.SCB`: needs `m.weight`, which is in no file",
        ),
        (
            {
                "SCB": torch.ones(2),
                "weight": torch.ones(2, 2, dtype=torch.int8),
                "weight_format": torch.tensor(2, dtype=torch.uint8),
            },
            "tensor `m.weight_format`: is not 0 (rows): save the model anew with a current bitsandbytes",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(opened, tensors, wanted):
    with pytest.raises(CheckpointError) as caught:
        opened(tensors)
    assert f"memory: {wanted}" in str(caught.value).splitlines()


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_model_that_transformers_quantized_decodes_to_what_it_dequantizes(tmp_path: Path, values, kind):
    from transformers import BitsAndBytesConfig, LlamaForCausalLM

    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    settings = BitsAndBytesConfig(**(nf4 if kind == "nf4" else {"load_in_8bit": True}))
    save_tiny(tmp_path / "plain", hidden=64, intermediate=64, layers=1, dtype="bfloat16")
    model = LlamaForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=settings, device_map="cpu"
    )
    model.save_pretrained(tmp_path / kind)
    stored = open_checkpoint(str(tmp_path / kind), tmp_path)
    found = surgery_decode_checkpoint(stored)
    wanted = model.dequantize(dtype=torch.bfloat16).state_dict()
    decoded = [name for name, spec in found.tensors.items() if spec.dtype == "F32"]
    assert len(decoded) == 7
    assert "quantization_config" not in found.config
    for name in decoded:
        assert torch.equal(values(found, name).to(wanted[name].dtype), wanted[name])
    found.close()
