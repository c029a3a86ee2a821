from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from surgery.cli import inspect
from surgery.execute import publish
from surgery.testing.tiny import save_tiny


def test_a_checkpoint_is_summarised_by_pattern(surgery, work):
    lines = surgery("inspect", "base").stdout.splitlines()
    assert lines[:7] == [
        "checkpoint               base",
        "format                   safetensors, 1 file",
        "tensors                  21",
        "parameters               5.712 K",
        "size                     11.2 KiB",
        "layers                   2",
        "names as in              decoder",
    ]
    rows = [line.split() for line in lines[lines.index("") + 2 :]]
    assert ["model.layers.*.mlp.up_proj.weight", "mlp.up", "0-1", "2", "32", "x", "16", "BF16"] in [
        row[:8] for row in rows
    ]
    assert sum(int(row[2 if row[1].startswith(("head", "embed", "norm.final")) else 3]) for row in rows) == 21


def test_tensors_are_listed_one_by_one_when_asked(surgery, work):
    lines = surgery("inspect", "base", "--tensors").stdout.splitlines()
    rows = [line.split() for line in lines[lines.index("") + 2 :]]
    assert len(rows) == 21
    assert [
        "model.layers.1.self_attn.q_proj.weight",
        "attention.q",
        "1",
        "BF16",
        "16",
        "x",
        "16",
        "512",
        "B",
    ] in rows


def test_tied_names_and_files_beside_the_weights_are_shown(surgery, tmp_path):
    folder = save_tiny(tmp_path / "tied", tied=True)
    (folder / "tokenizer.json").write_text("{}")
    lines = surgery("inspect", folder).stdout.splitlines()
    assert "tied                     lm_head.weight is model.embed_tokens.weight" in lines
    assert "beside it                tokenizer.json" in lines


def test_json_is_plain_data(surgery, work):
    data = json.loads(surgery("inspect", "base", "--json").stdout)
    assert (data["location"], data["format"], data["files"]) == ("base", "safetensors", ["model.safetensors"])
    assert (data["count"], data["parameters"], data["nbytes"], data["layers"]) == (21, 5712, 11424, 2)
    assert data["config"]["hidden_size"] == 16
    assert sum(pattern["tensors"] for pattern in data["patterns"]) == 21
    assert "tensors" not in data


def test_json_with_tensors_lists_each(surgery, work):
    data = json.loads(surgery("inspect", "base", "--json", "--tensors").stdout)
    assert len(data["tensors"]) == 21
    assert data["tensors"][-1]["name"] in {"model.norm.weight", "lm_head.weight"}
    found = {tensor["name"]: tensor for tensor in data["tensors"]}["model.layers.0.mlp.down_proj.weight"]
    assert found == {
        "name": "model.layers.0.mlp.down_proj.weight",
        "dtype": "BF16",
        "shape": [16, 32],
        "nbytes": 1024,
        "role": "mlp.down",
        "stack": "model.layers",
        "layer": 0,
        "expert": None,
    }
    assert "patterns" not in data


def test_a_single_file_and_a_scalar(surgery, tmp_path):
    save_file({"step": torch.tensor(3)}, tmp_path / "one.safetensors")
    assert surgery("inspect", tmp_path / "one.safetensors").stdout.splitlines()[-1].split() == [
        *("step", "other", "1", "scalar", "I64", "1", "8", "B")
    ]


def test_layers_are_counted_by_stack_where_there_are_several(surgery, tmp_path):
    names = ("encoder.block.0.x", "decoder.block.0.x", "decoder.block.1.x")
    save_file({name: torch.zeros(2) for name in names}, tmp_path / "m.safetensors")
    shown = surgery("inspect", str(tmp_path / "m.safetensors")).stdout
    assert "2 in decoder.block, 1 in encoder.block\n" in shown


def test_a_pickled_checkpoint_is_read_too(surgery, tmp_path):
    torch.save({"w": torch.zeros(2, 3)}, tmp_path / "pytorch_model.bin")
    assert "format       torch, 1 file" in surgery("inspect", tmp_path).stdout


def test_a_model_in_the_hubs_cache_is_found_by_its_id(tmp_path):
    cached = tmp_path / "hub" / "models--org--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    save_tiny(cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    done = subprocess.run(
        [sys.executable, "-m", "surgery", "inspect", "org/tiny", "--json"],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    data = json.loads(done.stdout)
    assert (data["location"], data["count"]) == ("org/tiny", 21)


def test_what_is_no_checkpoint_is_2(surgery, work):
    result = surgery("inspect", "bas")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: bas: there is no such file or folder; did you mean `base`?\n",
    )


def test_of_an_output_it_tells_what_made_it_of_what(surgery, work):
    assert surgery("run", "mix.yaml").exit_code == 0
    lines = surgery("inspect", "out").stdout.splitlines()
    assert [line for line in lines if line.startswith("made")] == [
        "made by                  merge.task_arithmetic",
        "made of                  base: ./base",
        "made of                  code: ./code",
        "made of                  math: ./math",
    ]
    data = json.loads(surgery("inspect", "out", "--json").stdout)
    assert data["made_by"] == ["merge.task_arithmetic"]
    assert data["made_of"] == {"base": "./base", "code": "./code", "math": "./math"}


def test_of_a_mask_it_tells_the_model(surgery, work):
    (work / "mask.yaml").write_text(
        "surgery: 1\nmodels: {base: ./base}\nsteps: {kept: {op: prune.mask, model: base, sparsity: 0.5}}\n"
        "output: {model: kept, to: ./mask}\n"
    )
    assert surgery("run", "mask.yaml").exit_code == 0
    out = surgery("inspect", "mask").stdout
    assert "made by      prune.mask\nmade of      base: ./base\n" in out


def test_a_models_commit_is_told(surgery, work):
    assert surgery("run", "mix.yaml").exit_code == 0
    manifest = json.loads((work / "out" / "surgery.json").read_text())
    manifest["models"] = {"base": {"source": "a/b", "repository": "a/b", "revision": "0123abcd"}}
    (work / "out" / "surgery.json").write_text(json.dumps(manifest))
    assert "made of                  base: a/b (a/b at 0123abcd)\n" in surgery("inspect", "out").stdout


@pytest.mark.parametrize("damage", [{"steps": None}, {"models": {"base": {}}}, {"models": ["base"]}])
def test_what_is_damaged_is_refused(surgery, work, damage):
    assert surgery("run", "mix.yaml").exit_code == 0
    manifest = json.loads((work / "out" / "surgery.json").read_text())
    (work / "out" / "surgery.json").write_text(json.dumps(manifest | damage))
    assert surgery("inspect", "out").stderr == (
        "error: out/surgery.json: does not say what it was made of: an older release wrote it, or it is damaged\n"
    )


def test_the_name_is_the_one_that_runs_write():
    assert inspect.MANIFEST == publish.MANIFEST
