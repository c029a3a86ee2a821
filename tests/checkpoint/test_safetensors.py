from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

from surgery.checkpoint.base import Extent
from surgery.checkpoint.header import read_header
from surgery.checkpoint.safetensors import SafetensorsCheckpoint
from surgery.errors import CheckpointError
from surgery.tensors import TensorSpec


@pytest.fixture
def sharded(tmp_path):
    """Write two shards, an index, a config and a tokenizer into a folder; return it."""
    save_file({"b": torch.arange(4.0), "a": torch.ones(2, 2)}, tmp_path / "model-00002-of-00002.safetensors")
    save_file({"c": torch.arange(3, dtype=torch.int8)}, tmp_path / "model-00001-of-00002.safetensors")
    weight_map = dict.fromkeys("ab", "model-00002-of-00002.safetensors") | {
        "c": "model-00001-of-00002.safetensors"
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "modeling.py").write_text("")
    return tmp_path


def test_the_bytes_of_every_dtype_are_what_the_library_wrote(tmp_path, every_dtype, whole, bytes_of):
    tensors = every_dtype | {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "m.safetensors")
    checkpoint = SafetensorsCheckpoint(tmp_path / "m.safetensors")
    assert set(checkpoint.tensors) == set(tensors)
    assert checkpoint.aliases == {}
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        assert whole(checkpoint, name) == bytes_of(tensor)


def test_four_bit_tensors_have_the_shape_of_their_elements(tmp_path, whole):
    codes = torch.arange(16, dtype=torch.uint8).reshape(4, 4)
    save_file({"w": codes.view(torch.float4_e2m1fn_x2)}, tmp_path / "m.safetensors")
    checkpoint = SafetensorsCheckpoint(tmp_path / "m.safetensors")
    assert checkpoint.tensors == {"w": TensorSpec("w", (4, 8), "F4")}
    assert whole(checkpoint, "w") == bytes(range(16))


def test_an_unaligned_file_is_read_into_an_aligned_buffer(raw_safetensors, whole):
    header = {
        "odd": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
    }
    data = b"xyz" + torch.tensor([1.0, -2.0]).numpy().tobytes()
    checkpoint = SafetensorsCheckpoint(raw_safetensors(header, data))
    assert torch.frombuffer(bytearray(whole(checkpoint, "w")), dtype=torch.float32).tolist() == [1.0, -2.0]


def test_a_folder_of_shards_has_tensors_in_the_order_of_files_and_offsets(sharded):
    checkpoint = SafetensorsCheckpoint(sharded)
    assert list(checkpoint.tensors) == ["c", "a", "b"]
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.sidecars == {"tokenizer.json": sharded / "tokenizer.json"}
    assert checkpoint.location == str(sharded)


def test_a_file_in_a_folder_has_the_config_beside_it(sharded):
    checkpoint = SafetensorsCheckpoint(sharded / "model-00001-of-00002.safetensors")
    assert list(checkpoint.tensors) == ["c"]
    assert checkpoint.config == {"model_type": "llama"}


def test_a_union_of_files_without_an_index_is_read(sharded):
    (sharded / "model.safetensors.index.json").unlink()
    assert list(SafetensorsCheckpoint(sharded).tensors) == ["c", "a", "b"]


def test_an_index_that_its_shards_contradict_is_refused(sharded):
    index = sharded / "model.safetensors.index.json"
    text = index.read_text().replace('"c": "model-00001', '"c": "model-00002')
    index.write_text(text.replace('"a": "model-00002', '"a": "model-00001'))
    with pytest.raises(CheckpointError) as caught:
        SafetensorsCheckpoint(sharded)
    first, second = "`model-00001-of-00002.safetensors`", "`model-00002-of-00002.safetensors`"
    assert str(caught.value).splitlines() == [
        f"{index}: tensor `a` is not in {first}, where the index puts it",
        f"{index}: tensor `c` is not in {second}, where the index puts it",
        f"{index}: tensor `c` is in {first}, but the index puts it in {second}",
        f"{index}: tensor `a` is in {second}, but the index puts it in {first}",
    ]


def test_an_extent_is_where_the_bytes_lie(sharded, whole):
    checkpoint = SafetensorsCheckpoint(sharded)
    path = sharded / "model-00002-of-00002.safetensors"
    start = read_header(path).data_start
    assert checkpoint.extent("b") == Extent(str(path), start + 16, 16)
    assert path.read_bytes()[start + 16 : start + 32] == whole(checkpoint, "b")


def test_a_cached_file_behind_a_link_is_read(tmp_path, whole):
    save_file({"w": torch.ones(2)}, tmp_path / "blob")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blob")
    assert len(whole(SafetensorsCheckpoint(tmp_path / "snapshot"), "w")) == 8


def test_many_threads_read_the_same_bytes_as_one(tmp_path, bytes_of):
    tensors = {f"w{i}": torch.randn(64, 32) for i in range(32)}
    save_file(tensors, tmp_path / "m.safetensors")
    checkpoint = SafetensorsCheckpoint(tmp_path / "m.safetensors")

    def read(job):
        name, start = f"w{job % 32}", 512 * (job // 32)
        data = bytearray(512)
        checkpoint.prefetch(name, start, 512)
        checkpoint.read_into(name, start, memoryview(data))
        return bytes(data) == bytes_of(tensors[name])[start : start + 512]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(32 * 16)))


def test_a_file_truncated_after_opening_is_an_error_that_names_file_and_tensor(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.ones(256)}, path)
    checkpoint = SafetensorsCheckpoint(path)
    checkpoint.read_into("w", 0, memoryview(bytearray(4)))
    os.truncate(path, path.stat().st_size - 24)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_into("w", 0, memoryview(bytearray(1024)))
    assert str(caught.value) == (
        f"{path}: tensor `w` is cut off: the file ends at byte {path.stat().st_size}, 24 bytes are missing;"
        " fetch the file again"
    )


def test_a_file_replaced_between_header_and_weights_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.ones(2)}, path)
    checkpoint = SafetensorsCheckpoint(path)
    save_file({"w": torch.zeros(2)}, tmp_path / "new")
    (tmp_path / "new").rename(path)
    with pytest.raises(CheckpointError, match="was changed after its header was read"):
        checkpoint.read_into("w", 0, memoryview(bytearray(8)))


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, 9), (8, 1)])
def test_reading_outside_a_tensor_is_a_bug_of_the_caller(tmp_path, start, count):
    save_file({"v": torch.ones(2), "w": torch.ones(2), "x": torch.ones(2)}, tmp_path / "m.safetensors")
    checkpoint = SafetensorsCheckpoint(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=rf"^w: bytes {start} to {start + count} of 8$"):
        checkpoint.read_into("w", start, memoryview(bytearray(count)))


def test_an_identity_changes_with_the_file_and_only_with_it(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"v": torch.ones(2), "w": torch.ones(2)}, path)
    first = SafetensorsCheckpoint(path)
    assert len(first.identity("w")) == 16
    assert first.identity("w") != first.identity("v")
    assert SafetensorsCheckpoint(path).identity("w") == first.identity("w")
    os.utime(path, ns=(0, 1))
    assert SafetensorsCheckpoint(path).identity("w") != first.identity("w")


def test_closing_gives_descriptors_back_and_ends_reading(sharded):
    before = len(os.listdir("/proc/self/fd"))
    checkpoint = SafetensorsCheckpoint(sharded)
    assert len(os.listdir("/proc/self/fd")) == before
    checkpoint.read_into("a", 0, memoryview(bytearray(1)))
    checkpoint.read_into("c", 0, memoryview(bytearray(1)))
    assert len(os.listdir("/proc/self/fd")) == before + 2
    checkpoint.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ValueError, match="read after close"):
        checkpoint.read_into("a", 0, memoryview(bytearray(1)))


def test_a_folder_without_the_format_is_an_error(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        SafetensorsCheckpoint(tmp_path)
    assert str(caught.value) == f"{tmp_path}: has no .safetensors file"
