from __future__ import annotations

import collections
import os
import pickle

import pytest
import torch

from surgery.checkpoint.torch_legacy import LegacyPickle
from surgery.errors import CheckpointError

# what torch itself can read back from its old format; younger dtypes fail in its own loader
OLD = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "complex64",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
]


@pytest.fixture
def saved(tmp_path):
    def save(state):
        path = tmp_path / "m.bin"
        torch.save(state, path, _use_new_zipfile_serialization=False)
        assert path.read_bytes()[:2] == b"\x80\x02"
        return path

    return save


def test_the_bytes_of_every_old_dtype_are_what_torch_wrote(saved, every_dtype, whole, bytes_of):
    tensors = {word: every_dtype[word] for word in OLD} | {"t": torch.arange(6.0).reshape(2, 3).t()}
    checkpoint = LegacyPickle(saved(tensors))
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        assert whole(checkpoint, name) == bytes_of(tensor), name


def test_tied_tensors_are_aliases(saved):
    base = torch.arange(6.0)
    checkpoint = LegacyPickle(saved(collections.OrderedDict(embed=base, norm=torch.ones(2), head=base)))
    assert checkpoint.aliases == {"head": "embed"}
    assert list(checkpoint.tensors) == ["embed", "norm"]


def test_the_file_is_in_memory_only_between_the_first_read_and_close(saved):
    path = saved({"w": torch.arange(6.0)})
    checkpoint = LegacyPickle(path)
    assert checkpoint._loaded is None
    assert checkpoint.whole_file_bytes() == path.stat().st_size
    assert checkpoint.extent("w") is None
    data = bytearray(4)
    checkpoint.read_into("w", 20, memoryview(data))
    assert bytes(data) == torch.tensor(5.0).numpy().tobytes()
    assert checkpoint._loaded is not None
    checkpoint.close()
    assert checkpoint._loaded is None
    with pytest.raises(ValueError, match="read after close"):
        checkpoint.read_into("w", 0, memoryview(data))


def test_a_file_that_changed_before_the_first_read_is_refused(saved):
    path = saved({"w": torch.arange(6.0)})
    checkpoint = LegacyPickle(path)
    before = checkpoint.identity("w")
    os.utime(path, ns=(0, 1))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_into("w", 0, memoryview(bytearray(4)))
    assert str(caught.value) == f"{path}: was changed after it was opened; run again"
    assert LegacyPickle(path).identity("w") != before


class _Attack:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("bare", [True, False])
def test_a_malicious_pickle_is_refused_and_executes_nothing(saved, tmp_path, bare):
    made = tmp_path / "made"
    path = saved({"w": torch.zeros(1), "x": _Attack(made)})
    if bare:
        path.write_bytes(pickle.dumps(_Attack(made), 2))
    with pytest.raises(CheckpointError) as caught:
        LegacyPickle(path)
    assert not made.exists()
    assert str(caught.value) == (
        f"{path}: holds more than tensors: it names `posix.system`, and nothing of it was executed;"
        " save a plain state dict, best as safetensors"
    )


def test_a_wrapped_state_dict_is_refused_with_its_keys(saved):
    path = saved({"epoch": 3, "model": {"w": torch.zeros(1)}})
    with pytest.raises(CheckpointError) as caught:
        LegacyPickle(path)
    assert str(caught.value) == (
        f"{path}: is a wrapped state dict: its keys are `epoch`, `model`, and tensors are found under `model`;"
        " save what is under `model` as a file of its own"
    )


def test_a_file_cut_off_anywhere_is_refused(saved):
    path = saved({"w": torch.arange(3.0)})
    for length in reversed(range(1, path.stat().st_size, 23)):
        os.truncate(path, length)
        with pytest.raises(CheckpointError, match="cannot be loaded: "):
            LegacyPickle(path)
