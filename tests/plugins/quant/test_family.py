"""Quantized models, end to end: what is written, what transformers makes of it, and what is refused before work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

import surgery
import surgery_quant
from surgery import PlanError, RecipeError, RunOptions
from surgery.testing import save_tiny

FUSED = "layer 0 has attention.k, attention.v quantized and attention.q not, engines fuse them"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    for seed, name in enumerate("ab"):
        save_tiny(folder / name, seed=seed, hidden=32, intermediate=64, dtype="bfloat16")
    return folder


def run(folder: Path, step: str, *, to: str = "out", chunk: int | None = None) -> Path:
    text = (
        f"surgery: 1\nmodels: {{a: ./a, b: ./b}}\nsteps:\n  p: {{{step}}}\noutput: {{model: p, to: ./{to}}}\n"
    )
    surgery.loads(text, folder=folder).run(RunOptions(force=True, chunk=chunk))
    return folder / to


def decoded(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights as our own reader decodes them."""
    text = "surgery: 1\nmodels: {m: .}\noutput: {model: m}\n"
    return {
        name: value.float() for name, value in surgery.state_dict(surgery.loads(text, folder=folder)).items()
    }


def loaded(folder: Path, *, dequantize: bool) -> dict[str, torch.Tensor]:
    """Return the weights as transformers has them after a forward, and nothing may be missing or left over."""
    settings = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **settings)
    assert not any(info.values()), info
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    assert model.generate(torch.tensor([[1, 2]]), max_new_tokens=3, do_sample=False).shape == (1, 5)
    return {name: value.float() for name, value in model.state_dict().items()}


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`:UserWarning")
@pytest.mark.parametrize(
    ("step", "dequantize"),
    [
        ("op: quant.int4, model: a, group_size: 16", False),
        ("op: quant.int4, model: a, group_size: 16, scales: mse", True),
        ("op: quant.int4, model: a, group_size: null", False),
        ("op: quant.int8, model: a", False),
        ("op: quant.int8, model: a, activations: dynamic", False),
        ("op: quant.int4, model: a, group_size: 16, symmetric: false", True),
        ("op: quant.int8, model: a, group_size: 32, symmetric: false", True),
    ],
)
def test_transformers_and_our_reader_decode_the_same_weights(tiny, step, dequantize):
    out = run(tiny, step)
    ours, theirs = decoded(out), loaded(out, dequantize=dequantize)
    original = load_file(tiny / "a" / "model.safetensors")
    assert set(original) <= set(ours)
    for name in original:
        assert torch.equal(ours[name].to(torch.bfloat16), theirs[name].to(torch.bfloat16)), name
        error = (ours[name] - original[name].float()).norm() / original[name].float().norm()
        assert error < (0.2 if "int4" in step else 0.02)
    quantized = [name for name in original if not torch.equal(ours[name], original[name].float())]
    assert quantized
    assert all(".self_attn." in name or ".mlp." in name for name in quantized)


def test_the_bytes_do_not_depend_on_chunks(tiny):
    step = "op: quant.int4, model: a, group_size: 16, symmetric: false, scales: mse"
    outs = [run(tiny, step, to=f"c{chunk}", chunk=chunk) for chunk in (64, 448, None)]
    assert len({(out / "model.safetensors").read_bytes() for out in outs}) == 1


def test_config_tells_format_scheme_and_what_was_left_out(tiny):
    out = run(tiny, "op: quant.int4, model: a, group_size: 16, keep: ['layers[0].mlp']")
    said = json.loads((out / "config.json").read_text())["quantization_config"]
    assert said["format"] == "pack-quantized"
    assert said["config_groups"]["group_0"]["weights"] == {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": 16,
        "dynamic": False,
    }
    left = [f"model.layers.0.mlp.{name}_proj" for name in ("down", "gate", "up")]
    assert said["ignore"] == ["lm_head", *left]
    assert loaded(out, dequantize=False)


def test_dynamic_activations_are_told(tiny):
    out = run(tiny, "op: quant.int8, model: a, activations: dynamic")
    said = json.loads((out / "config.json").read_text())["quantization_config"]
    assert said["format"] == "int-quantized"
    assert said["config_groups"]["group_0"]["input_activations"]["strategy"] == "token"


def test_a_merge_is_quantized_in_the_same_pass(tiny):
    text = """
surgery: 1
models: {a: ./a, b: ./b}
steps:
  merged: {op: merge.linear, models: {a: 0.5, b: 0.5}}
  packed: {op: quant.int4, model: merged, group_size: 16}
outputs:
  whole: {model: merged, to: ./whole, dtype: float32}
  small: {model: packed, to: ./small}
"""
    surgery.loads(text, folder=tiny).run(RunOptions(force=True))
    whole = load_file(tiny / "whole" / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    w = whole[name].view(whole[name].shape[0], -1, 16)
    scale = (w.abs().amax(-1) / 7.5).bfloat16()
    packed = load_file(tiny / "small" / "model.safetensors")
    assert torch.equal(packed[name.replace("weight", "weight_scale")], scale)
    codes = torch.round(w / scale.float().unsqueeze(-1)).clamp(-8, 7)
    values = (codes * scale.float().unsqueeze(-1)).view(whole[name].shape)
    assert torch.equal(decoded(tiny / "small")[name], values)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("op: quant.int4, model: a", "inputs do not divide into groups of 128"),
        ("op: quant.int4, model: a, group_size: 16, keep: [attention.q]", FUSED),
        ("op: quant.int4, model: a, group_size: 16, keep: [attention, mlp]", "quantizes nothing"),
        ("op: quant.int4, model: a, where: lm_head, group_size: 16", "quantizes nothing"),
    ],
)
def test_what_no_engine_would_load_is_refused_before_work(tiny, step, said):
    with pytest.raises(PlanError, match=said):
        run(tiny, step)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (
            "op: quant.int8, model: a, activations: dynamic, group_size: 16",
            "`activations: dynamic` needs symmetric",
        ),
        ("op: quant.int4, model: a, group_size: 4", "greater than or equal to 8|at least 8"),
        ("op: quant.int4, model: a, keep: ['layers[']", "selector|layers"),
    ],
)
def test_wrong_parameters_are_refused(tiny, step, said):
    with pytest.raises(RecipeError, match=said):
        run(tiny, step)


def test_linears_that_do_not_divide_can_be_kept(tiny):
    with pytest.raises(PlanError, match="quantizes nothing"):
        run(tiny, "op: quant.int4, model: a, group_size: 4096, on_indivisible: keep")


def test_quantized_weights_are_not_merged_again(tiny):
    text = """
surgery: 1
models: {a: ./a}
steps:
  packed: {op: quant.int4, model: a, group_size: 16}
  again: {op: merge.linear, models: {packed: 1, a: 1}}
output: {model: again, to: ./x}
"""
    with pytest.raises(
        PlanError, match="takes weights, `packed` holds packed tensors; do it before they are packed"
    ):
        surgery.loads(text, folder=tiny).resolve()


def test_the_hook_returns_every_op_and_imports_no_torch():
    ops = surgery_quant.surgery_register_ops()
    assert [op.name for op in ops] == ["quant.int4", "quant.int8"]
    assert all(op.cite and op.summary.endswith(".") for op in ops)
    code = "import surgery_quant, sys; surgery_quant.surgery_register_ops(); print('torch' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "False\n"
