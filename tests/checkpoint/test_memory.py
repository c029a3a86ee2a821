from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery.checkpoint.layout import lay_out
from surgery.checkpoint.memory import MemoryCheckpoint, MemoryWriter, memory_scheme, register_memory
from surgery.errors import CheckpointError
from surgery.tensors import TensorSpec


def test_arrays_and_tensors_are_read_as_bytes(tmp_path, whole, bytes_of):
    tensors = {
        "a": np.arange(3, dtype=np.int16),
        "b": torch.ones(2, 2, dtype=torch.bfloat16),
        "e": torch.zeros(0),
    }
    tokenizer = {"tokenizer.json": tmp_path / "tokenizer.json"}
    checkpoint = MemoryCheckpoint(tensors, {"model_type": "llama"}, tokenizer)
    assert list(checkpoint.tensors.values()) == [
        TensorSpec("a", (3,), "I16"),
        TensorSpec("b", (2, 2), "BF16"),
        TensorSpec("e", (0,), "F32"),
    ]
    assert whole(checkpoint, "a") == tensors["a"].tobytes()
    assert whole(checkpoint, "b") == bytes_of(tensors["b"])
    assert whole(checkpoint, "e") == b""
    assert (checkpoint.config, checkpoint.sidecars) == ({"model_type": "llama"}, tokenizer)
    assert (checkpoint.location, checkpoint.extent("a"), checkpoint.whole_file_bytes()) == ("memory", None, 0)


def test_tied_weights_are_aliases():
    base = torch.arange(6.0)
    checkpoint = MemoryCheckpoint({"embed": base, "norm": torch.ones(6), "head": torch.nn.Parameter(base)})
    assert list(checkpoint.tensors) == ["embed", "norm"]
    assert checkpoint.aliases == {"head": "embed"}


def test_a_buffer_of_another_type_is_filled_with_bytes():
    checkpoint = MemoryCheckpoint({"w": np.arange(4, dtype=np.int32)})
    out = np.zeros((2, 1), np.int32)
    checkpoint.read_into("w", 8, out.data)
    assert out.tolist() == [[2], [3]]


def test_an_identity_follows_the_bytes_as_they_are_now():
    values = np.arange(4.0)
    checkpoint = MemoryCheckpoint({"w": values, "v": values.copy()})
    before = checkpoint.identity("w")
    assert len(before) == 16
    assert before != checkpoint.identity("v")
    assert before == MemoryCheckpoint({"w": np.arange(4.0)}).identity("w")
    values[3] = 7
    assert checkpoint.identity("w") != before


def test_close_keeps_the_tensors():
    checkpoint = MemoryCheckpoint({"w": np.ones(1, np.int8)})
    checkpoint.close()
    data = bytearray(1)
    checkpoint.read_into("w", 0, memoryview(data))
    assert data == b"\x01"


def test_reading_outside_a_tensor_is_a_bug_of_the_caller():
    checkpoint = MemoryCheckpoint({"w": np.ones(2, np.int8)})
    with pytest.raises(ValueError, match=r"^w: bytes 1 to 3 of 2$"):
        checkpoint.read_into("w", 1, memoryview(bytearray(2)))


def test_bytes_with_specs_make_a_checkpoint(whole):
    specs = [TensorSpec("w", (2,), "F4"), TensorSpec("e", (0,), "F32")]
    checkpoint = MemoryCheckpoint.of_bytes(specs, {"w": memoryview(b"\x12"), "e": memoryview(b"")}, {"a": 1})
    assert list(checkpoint.tensors.values()) == specs
    assert (whole(checkpoint, "w"), whole(checkpoint, "e")) == (b"\x12", b"")
    assert checkpoint.config == {"a": 1}


def test_bytes_that_do_not_fit_their_spec_are_refused():
    with pytest.raises(CheckpointError) as caught:
        MemoryCheckpoint.of_bytes([TensorSpec("w", (3,), "U8")], {"w": memoryview(b"12")})
    assert str(caught.value) == "memory: tensor `w` has 2 bytes, its spec takes 3"


def test_a_registered_checkpoint_is_opened_by_its_name(tmp_path):
    scheme = memory_scheme()
    first, second = MemoryCheckpoint({}), MemoryCheckpoint({})
    register_memory("test_memory_base", first)
    assert (scheme.name, scheme.open("test_memory_base", tmp_path)) == ("memory", first)
    register_memory("test_memory_base", second)
    assert scheme.open("test_memory_base", tmp_path) is second


def test_a_name_that_is_not_registered_is_an_error_with_a_suggestion(tmp_path):
    register_memory("test_memory_code", MemoryCheckpoint({}))
    with pytest.raises(CheckpointError) as caught:
        memory_scheme().open("test_memory_cod", tmp_path)
    message = "memory:test_memory_cod: nothing is registered under this name; did you mean `test_memory_code`"
    assert str(caught.value).startswith(message)


def test_what_is_written_is_read_back_as_a_checkpoint(whole):
    layout = lay_out([TensorSpec("a", (2,), "U8"), TensorSpec("b", (2,), "F32")], 4)
    writer = MemoryWriter(layout)
    writer.create(["model-00002-of-00002.safetensors"])
    writer.write_at("a", 1, memoryview(b"x"))
    checkpoint = writer.checkpoint({"model_type": "llama"})
    assert whole(checkpoint, "a") == b"\0x"
    assert list(checkpoint.tensors) == ["a"]
    assert checkpoint.config == {"model_type": "llama"}
