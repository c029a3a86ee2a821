from __future__ import annotations

import collections
import io
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch

from surgery.checkpoint.state_dict import flat_state_dict, read_state_dict, unsafe
from surgery.checkpoint.unpickler import Storage, TensorView
from surgery.errors import CheckpointError


def _pickled(value) -> bytes:
    """Return data.pkl of what torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file)
    with zipfile.ZipFile(file) as archive:
        return archive.read("archive/data.pkl")


def _refusal(data: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(data, "m.bin")
    return str(caught.value)


def test_a_state_dict_is_read_as_views_of_storages():
    base = torch.zeros(4, 6)
    state = {"w": base, "t": base.t()[1:], "p": torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float16))}
    storage = Storage("0", "float32", 24)
    assert read_state_dict(_pickled(state), "m.bin") == {
        "w": TensorView(storage, "float32", 0, (4, 6), (6, 1)),
        "t": TensorView(storage, "float32", 1, (5, 4), (1, 6)),
        "p": TensorView(Storage("1", "float16", 1), "float16", 0, (), ()),
    }


def test_dtypes_without_a_typed_storage_are_read():
    state = {"w": torch.zeros(3, dtype=torch.float8_e4m3fn), "u": torch.zeros(3, dtype=torch.uint16)}
    assert read_state_dict(_pickled(state), "m.bin") == {
        "w": TensorView(Storage("0", "", 3), "float8_e4m3fn", 0, (3,), (1,)),
        "u": TensorView(Storage("1", "", 6), "uint16", 0, (3,), (1,)),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_protocol_is_read(protocol):
    file = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, file, pickle_protocol=protocol)
    with zipfile.ZipFile(file) as archive:
        data = archive.read("archive/data.pkl")
    assert list(read_state_dict(data, "m.bin")) == ["w"]


def test_an_ordered_dict_with_the_metadata_of_a_module_is_read():
    state = torch.nn.Linear(2, 3).state_dict()
    assert isinstance(state, collections.OrderedDict)
    assert state._metadata
    assert list(read_state_dict(_pickled(state), "m.bin")) == ["weight", "bias"]


def test_a_parameter_with_attributes_is_read():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.note = "x"
    assert list(read_state_dict(_pickled({"w": parameter}), "m.bin")) == ["w"]


class _Attack:
    """Would create the file when unpickled."""

    def __init__(self, path, call=os.system):
        self.path, self.call = str(path), call

    def __reduce__(self):
        return self.call, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_malicious_pickle_is_refused_and_executes_nothing(tmp_path, protocol):
    made = tmp_path / "made"
    data = pickle.dumps({"w": _Attack(made)}, protocol)
    pickle.loads(data)
    assert made.exists(), "the attack works, so that its absence below means something"
    made.unlink()
    message = _refusal(data)
    assert not made.exists()
    if protocol >= 2:
        assert message == (
            "m.bin: holds more than tensors: it names `posix.system`, and nothing of it was executed;"
            " save a plain state dict, best as safetensors"
        )


def test_all_unknown_globals_are_listed_also_behind_arrays():
    state = {"a": np.zeros(2), "w": torch.zeros(2), "b": _Attack("x", eval), "c": collections.Counter()}
    assert _refusal(_pickled(state)) == (
        "m.bin: holds more than tensors: it names `__builtin__.eval`, `_codecs.encode`, `collections.Counter`,"
        " `numpy._core.multiarray._reconstruct`, `numpy.dtype`, `numpy.ndarray`,"
        " and nothing of it was executed; save a plain state dict, best as safetensors"
    )


def test_at_most_twenty_globals_are_listed():
    assert unsafe("m.bin", [f"m.f{i:02d}" for i in range(20)]).count("`") == 40
    assert "`m.f19`, ..., and nothing of it was executed" in unsafe(
        "m.bin", [f"m.f{i:02d}" for i in range(21)]
    )


def test_a_flat_dict_of_any_kind_of_tensor_is_returned_as_it_is():
    state = collections.OrderedDict(w=torch.zeros(1))
    assert flat_state_dict(state, "m.bin", torch.Tensor) == {"w": state["w"]}


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (
            {"epoch": 3, "state_dict": {"w": torch.zeros(1)}, "lr": 0.1},
            "m.bin: is a wrapped state dict: its keys are `epoch`, `state_dict`, `lr`, and tensors are found"
            " under `state_dict`; save what is under `state_dict` as a file of its own",
        ),
        (
            {"w": torch.zeros(1), "step": 3},
            "m.bin: `step` is of type int, not a tensor; save a plain state dict",
        ),
        (
            {"w": torch.zeros(1), "more": {"lr": 1}},
            "m.bin: `more` is of type dict, not a tensor; save a plain state dict",
        ),
        ({3: torch.zeros(1)}, "m.bin: key `3` is of type int, not a name; save a plain state dict"),
        (torch.zeros(1), "m.bin: holds a tensor, not a state dict; save a plain state dict"),
        ([torch.zeros(1)], "m.bin: holds of type list, not a state dict; save a plain state dict"),
    ],
)
def test_what_is_no_flat_state_dict_is_refused_with_what_it_is(state, what):
    assert _refusal(_pickled(state)) == what


def test_dtypes_that_safetensors_has_not_are_refused():
    assert _refusal(_pickled({"w": torch.zeros(1, dtype=torch.complex128)})).startswith(
        "m.bin: holds more than tensors: it names `torch.ComplexDoubleStorage`"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.13 deprecates them
        quantised = torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.qint8)
    assert "`torch._utils._rebuild_qtensor`" in _refusal(_pickled({"w": quantised}))
    sparse = torch.zeros(2, 2).to_sparse()
    assert "`torch._utils._rebuild_sparse_tensor`" in _refusal(_pickled({"w": sparse}))
