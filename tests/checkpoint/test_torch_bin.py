from __future__ import annotations

import json

import pytest
import torch

from surgery.checkpoint.torch_bin import TorchCheckpoint
from surgery.errors import CheckpointError


@pytest.fixture
def sharded(tmp_path):
    """Write two shards, one of them in the old format, an index and a config into a folder; return it."""
    base = torch.arange(4.0)
    torch.save({"b": base, "tied": base}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save(
        {"a": torch.ones(2, 2)},
        tmp_path / "pytorch_model-00002-of-00002.bin",
        _use_new_zipfile_serialization=False,
    )
    weight_map = dict.fromkeys(("b", "tied"), "pytorch_model-00001-of-00002.bin")
    weight_map["a"] = "pytorch_model-00002-of-00002.bin"
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "training_args.bin").write_bytes(b"not weights")
    return tmp_path


def test_a_folder_of_shards_is_one_checkpoint(sharded, whole):
    checkpoint = TorchCheckpoint(sharded)
    assert list(checkpoint.tensors) == ["b", "a"]
    assert checkpoint.aliases == {"tied": "b"}
    assert checkpoint.config == {"model_type": "gpt2"}
    assert list(checkpoint.sidecars) == ["merges.txt"]
    assert whole(checkpoint, "b") == torch.arange(4.0).numpy().tobytes()
    assert whole(checkpoint, "a") == torch.ones(4).numpy().tobytes()
    assert checkpoint.extent("b") is not None
    assert checkpoint.extent("a") is None
    assert checkpoint.identity("a") != checkpoint.identity("b")


def test_only_files_of_the_old_format_are_loaded_whole(sharded):
    checkpoint = TorchCheckpoint(sharded)
    assert checkpoint.whole_file_bytes() == (sharded / "pytorch_model-00002-of-00002.bin").stat().st_size
    only = TorchCheckpoint(sharded / "pytorch_model-00001-of-00002.bin")
    assert only.whole_file_bytes() == 0
    assert list(only.tensors) == ["b"]


def test_without_an_index_model_files_are_a_union(sharded):
    (sharded / "pytorch_model.bin.index.json").unlink()
    assert list(TorchCheckpoint(sharded).tensors) == ["b", "a"]


def test_aliases_count_as_tensors_of_the_index(sharded):
    index = sharded / "pytorch_model.bin.index.json"
    index.write_text(index.read_text().replace('"tied"', '"tide"'))
    with pytest.raises(CheckpointError) as caught:
        TorchCheckpoint(sharded)
    assert str(caught.value).splitlines() == [
        f"{index}: tensor `tide` is not in `pytorch_model-00001-of-00002.bin`, where the index puts it",
        f"{index}: tensor `tied` is in `pytorch_model-00001-of-00002.bin`, but the index does not list it",
    ]


def test_a_single_model_file_wins_over_nothing_and_is_read(sharded, whole):
    for path in sharded.glob("pytorch_model*"):
        path.unlink()
    torch.save({"w": torch.ones(1)}, sharded / "pytorch_model.bin")
    assert whole(TorchCheckpoint(sharded), "w") == torch.ones(1).numpy().tobytes()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"not weights", ": is neither a zip archive nor a pickle; it is damaged or not a torch file"),
        (b"", ": is neither a zip archive nor a pickle; it is damaged or not a torch file"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            ": is a Git LFS pointer, not the weights; run `git lfs pull`",
        ),
    ],
)
def test_a_file_that_is_no_pickle_is_refused(tmp_path, data, what):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        TorchCheckpoint(tmp_path)
    assert str(caught.value) == f"{path}{what}"


def test_a_folder_without_the_format_is_an_error(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        TorchCheckpoint(tmp_path)
    assert str(caught.value) == f"{tmp_path}: has no pytorch_model.bin"


def test_closing_ends_reading(sharded):
    checkpoint = TorchCheckpoint(sharded)
    checkpoint.prefetch("b", 0, 16)
    checkpoint.close()
    for name in ("a", "b"):
        with pytest.raises(ValueError, match="read after close"):
            checkpoint.read_into(name, 0, memoryview(bytearray(1)))
