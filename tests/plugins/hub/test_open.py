from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from surgery.checkpoint.open import open_checkpoint
from surgery.errors import CheckpointError
from surgery.host import Host
from surgery_hub.open import open_hub
from surgery_hub.source import HubCheckpoint


def opened(source: str, folder: Path):
    host = Host()
    return open_checkpoint(source, folder, host.formats(), host.schemes())


@pytest.mark.parametrize("source", ["org/x", "org/x@main", "hub:org/x", "hf:org/x@main"])
def test_a_model_on_the_hub_is_opened_by_its_id(hub, tiny, tmp_path, source):
    hub.add("org/x", tiny)
    checkpoint = opened(source, tmp_path)
    assert isinstance(checkpoint, HubCheckpoint)
    assert (len(checkpoint.tensors), checkpoint.location) == (21, source)
    assert checkpoint.config["model_type"] == "llama"


def test_the_modules_behind_a_sentence_embedding_model_come_with_it(hub, tiny, tmp_path):
    hub.add("org/x", tiny)
    hub.add("org/x", {"1_Pooling/config.json": b"{}", "onnx/model.onnx": b"x"})
    assert list(opened("org/x", tmp_path).sidecars) == []
    hub.add("org/x", {"modules.json": b"[]"})
    sidecars = opened("org/x@main", tmp_path).sidecars
    assert list(sidecars) == ["1_Pooling/config.json", "modules.json"]
    assert sidecars["1_Pooling/config.json"].read_bytes() == b"{}"


def test_a_folder_of_that_name_goes_before_the_hub(hub, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "org" / "x")
    assert not isinstance(opened("org/x", tmp_path), HubCheckpoint)
    assert hub.requests == []


@pytest.mark.parametrize("source", ["./org/x", "../org/x", "/org/x", "~/org/x"])
def test_what_begins_like_a_path_is_never_looked_up(hub, tmp_path, source):
    with pytest.raises(CheckpointError, match="there is no such file or folder"):
        opened(source, tmp_path)
    assert hub.requests == []


def test_local_models_and_outputs_need_no_client(tiny, tmp_path):
    recipe = "surgery: 1\nmodels: {a: ./tiny}\noutput: {model: a, to: ./out}\n"
    code = (
        f"import sys, surgery; surgery.loads({recipe!r}, folder={str(tmp_path)!r}).resolve()\n"
        "assert 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_in_a_repository(hub, tiny, tmp_path):
    hub.add("org/x", {f"sub/{file.name}": file.read_bytes() for file in tiny.iterdir()})
    checkpoint = opened("hub:org/x/sub", tmp_path)
    assert len(checkpoint.tensors) == 21
    with pytest.raises(CheckpointError) as error:
        opened("hub:org/x/sup", tmp_path)
    assert str(error.value) == ("org/x/sup: the repository has no such folder or file; did you mean `sub`?")


def test_one_file_of_a_repository(hub, tiny, tmp_path):
    hub.add("org/x", {"a.safetensors": (tiny / "model.safetensors").read_bytes(), "b.safetensors": b"broken"})
    assert len(opened("hub:org/x/a.safetensors", tmp_path).tensors) == 21


def test_an_index_that_names_a_missing_shard_is_an_error(hub, tmp_path):
    index = b'{"weight_map": {"w": "model-00001-of-00001.safetensors"}}'
    hub.add("org/x", {"model.safetensors.index.json": index, "other.safetensors": b""})
    with pytest.raises(CheckpointError) as error:
        open_hub("org/x", tmp_path)
    assert str(error.value) == (
        "org/x/model.safetensors.index.json: `model-00001-of-00001.safetensors` is missing"
    )


def test_pickles_are_fetched_whole_and_only_where_there_is_nothing_better(hub, tiny, tmp_path):
    import torch
    from safetensors.torch import load_file

    tensors = load_file(tiny / "model.safetensors")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    pickle = {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes(), "config.json": b"{}"}
    hub.add("org/old", pickle)
    assert opened("org/old", tmp_path).tensors.keys() == tensors.keys()
    assert hub.count("GET /lfs") == 1
    hub.add("org/both", tiny)
    hub.add("org/both", pickle)
    assert isinstance(opened("org/both", tmp_path), HubCheckpoint)
    assert hub.count("org/both.*pytorch_model.bin") == 0


def test_an_adapter_is_fetched_and_its_folder_given_to_its_format(hub, tmp_path):
    hub.add("org/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"12"})
    folder = open_hub("org/lora", tmp_path)
    assert isinstance(folder, Path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_a_repository_without_weights_says_what_it_holds(hub, tmp_path):
    hub.add("org/x", {"README.md": b"", "a.onnx": b"", "b.onnx": b""})
    with pytest.raises(CheckpointError) as error:
        open_hub("org/x", tmp_path)
    assert str(error.value) == (
        "org/x: has no weights in a known format, got 2 `*.onnx`, 1 `*.md`; name the folder or file that has"
    )
