"""Which checkpoints are decoded, which are refused, and a merge of decoded ones from recipe to file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import surgery
from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.cli.main import cli
from surgery.errors import CheckpointError
from surgery.testing.tiny import tiny_llama
from surgery_hf import surgery_decode_checkpoint

ADVICE = (
    "its quantized tensors cannot be decoded, the reasons follow; mend the checkpoint, or set `decode: false` on"
    " the model to take all tensors as they are stored (`surgery inspect --stored` shows them)"
)


def refusal(tensors, config=None) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        surgery_decode_checkpoint(MemoryCheckpoint(tensors, config or {}))
    return str(caught.value).splitlines()


def test_a_checkpoint_without_quantized_tensors_is_left_as_it_is():
    plain = MemoryCheckpoint({"m.weight": torch.ones(2), "mask": torch.ones(2, dtype=torch.int8)})
    assert surgery_decode_checkpoint(plain) is None


def test_a_method_that_is_not_decoded_is_named():
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    assert refusal({"m.qweight": torch.ones(2, dtype=torch.int32)}, config) == [
        f"memory: {ADVICE}",
        "memory: `quant_method` must be one of `bitsandbytes`, `compressed-tensors`, `fp8`, got `gptq`",
    ]


def test_a_config_that_no_tensor_bears_out_is_refused():
    config = {"quantization_config": {"quant_method": "fp8"}}
    assert refusal({"m.weight": torch.ones(2)}, config) == [
        f"memory: {ADVICE}",
        "memory: `quant_method` is `fp8`, but no tensor is quantized",
    ]


def test_tensors_that_no_config_explains_are_refused():
    tensors = {"m.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "m.weight_scale_inv": torch.ones(1, 1)}
    assert refusal(tensors) == [
        f"memory: {ADVICE}",
        "memory: no `quantization_config` in a config.json beside them says how they are coded",
        "memory: tensor `m.weight`: is F8_E4M3 (2, 2), part of no quantized weight that is known",
        "memory: tensor `m.weight_scale_inv`: is F32 (1, 1), part of no quantized weight that is known",
    ]


def test_codes_that_share_their_memory_are_refused():
    codes, scales = torch.ones(2, 2).to(torch.float8_e4m3fn), torch.ones(1, 1)
    tensors = {"m.weight": codes, "m.weight_scale_inv": scales, "n.weight_scale_inv": scales}
    assert refusal(tensors, {"quantization_config": {"quant_method": "fp8"}})[1:] == [
        "memory: tensor `n.weight_scale_inv`: shares the memory of `m.weight_scale_inv`, quantized tensors must have"
        " their own"
    ]


def test_opening_imports_no_torch(quantized: Path):
    code = (
        "import sys; from pathlib import Path; from surgery.host import Host\n"
        "from surgery.checkpoint.open import open_checkpoint\n"
        f"view = Host().decoded(open_checkpoint({str(quantized / 'a')!r}, Path()))\n"
        "print(len(view.tensors), 'torch' in sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "21 False\n"


@pytest.fixture
def quantized(tmp_path: Path, compress) -> Path:
    """Two tiny models, `a` in 4 bits and `b` in fp8, in several files; `a-plain` and `b-plain` decompressed.

    The plain ones hold the exact float32 products, as the formats' definition has it.
    """
    forms = {
        "a": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 16, "symmetric": False}),
        "b": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    }
    for seed, (name, (form, settings)) in enumerate(forms.items()):
        tensors, config = tiny_llama(seed=seed, dtype="bfloat16")
        stored, plain = {}, {}
        for key, value in tensors.items():
            stored[key] = plain[key] = value
            if key.endswith("_proj.weight"):
                # with scales of float32 the library's own result is not rounded to 16 bits
                parts, plain[key], said = compress(form, value, torch.float32, **settings)
                module = key.removesuffix(".weight")
                del stored[key]
                stored |= {f"{module}.{part}": data for part, data in parts.items()}
        write(tmp_path / f"{name}-plain", config, plain)
        write(tmp_path / name, config | {"quantization_config": said["quantization_config"]}, stored)
    return tmp_path


def write(folder: Path, config: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Write a checkpoint in two files, so that scales may lie in another than their codes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors, key=lambda name: name.rpartition(".")[2])
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    weight_map = {}
    for number, half in enumerate(halves, 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name].contiguous() for name in half}, folder / file)
        weight_map |= dict.fromkeys(half, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


MERGE = """
surgery: 1
models: {{a: ./a{kind}, b: ./b{kind}}}
steps:
  mix: {{op: merge.linear, models: {{a: 0.25, b: 0.75}}}}
output: {{model: mix, to: ./out{kind}, dtype: {dtype}}}
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merging_decoded_sources_equals_merging_what_they_stand_for(quantized: Path, dtype: str):
    for kind in ("", "-plain"):
        surgery.loads(MERGE.format(kind=kind, dtype=dtype), folder=quantized).run()
    found, wanted = (load_file(quantized / f"out{kind}" / "model.safetensors") for kind in ("", "-plain"))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    assert "quantization_config" not in json.loads((quantized / "out" / "config.json").read_text())


def test_decode_false_copies_the_stored_bytes_and_keeps_the_config(quantized: Path):
    text = "{surgery: 1, models: {a: {source: ./a, decode: false}}, output: {model: a, to: ./copy}}"
    surgery.loads(text, folder=quantized).run()
    copied = load_file(quantized / "copy" / "model.safetensors")
    for file in (quantized / "a").glob("*.safetensors"):
        for name, value in load_file(file).items():
            assert copied.pop(name).equal(value)
    assert copied == {}
    before, after = (json.loads((quantized / f / "config.json").read_text()) for f in ("a", "copy"))
    assert after["quantization_config"] == before["quantization_config"]


def test_one_folder_may_be_taken_both_ways(quantized: Path):
    text = (
        "{surgery: 1, models: {codes: {source: ./a, decode: false}, numbers: ./a},"
        " outputs: {x: {model: codes, to: ./x}, y: {model: numbers, to: ./y}}}"
    )
    surgery.loads(text, folder=quantized).run()
    name = "model.layers.0.mlp.up_proj.weight"
    assert f"{name}_packed" in load_file(quantized / "x" / "model.safetensors")
    assert load_file(quantized / "y" / "model.safetensors")[name].dtype == torch.float32


def test_a_missing_scale_is_a_finding_of_the_plan_that_names_file_and_tensor(quantized: Path):
    file = quantized / "a" / "model-00002-of-00002.safetensors"
    index = quantized / "a" / "model.safetensors.index.json"
    name = "model.layers.1.mlp.up_proj.weight_scale"
    weight_map = json.loads(index.read_text())["weight_map"]
    file = quantized / "a" / weight_map.pop(name)
    index.write_text(json.dumps({"weight_map": weight_map}))
    save_file({key: value for key, value in load_file(file).items() if key != name}, file)
    with pytest.raises(surgery.PlanError) as caught:
        surgery.loads(MERGE.format(kind="", dtype="float32"), folder=quantized).resolve()
    codes = name.replace("scale", "packed")
    assert f"./a: {weight_map[codes]}: tensor `{codes}`: needs `{name}`, which is in no file" in str(
        caught.value
    )


def test_inspect_shows_numbers_or_what_is_stored(quantized: Path):
    def shown(*options: str) -> set[str]:
        ran = CliRunner().invoke(cli, ["inspect", str(quantized / "a"), "--tensors", "--json", *options])
        assert ran.exit_code == 0, ran.output
        return ran.output

    assert "up_proj.weight_packed" not in shown()
    assert "up_proj.weight_packed" in shown("--stored")
