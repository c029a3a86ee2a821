from __future__ import annotations

import collections
import io
import os
import pickle
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import torch
from surgery.checkpoint.pickles import Storage, TensorView, globals_in, read_state_dict
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


def _tensor(arguments: str, function: str = "_rebuild_tensor_v2", storage: str = "FloatStorage", count: int = 4) -> bytes:
    """Return a pickle of {'w': function(storage, *arguments)}, the arguments written as Python."""

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return value if isinstance(value, tuple) and value and value[0] == "storage" else None

        def save_global(self, value, name=None):
            self.write(pickle.GLOBAL + f"{value.module}\n{value.word}\n".encode())

    class Global:
        def __init__(self, module, word):
            self.module, self.word = module, word

        def __reduce__(self):
            return "a string: save_global is called"

    class Call:
        def __reduce__(self):
            pid = ("storage", Global("torch", storage), "0", "cpu", count)
            return pickle.loads, (pid, *eval(arguments, {"Global": Global}))

    class Calls(Pickler):
        def save_reduce(self, func, args, *rest, **more):
            super().save_reduce(Function("torch._utils", function), args, obj=more.get("obj"))

    class Function(Global):
        def __call__(self):
            raise NotImplementedError

    file = io.BytesIO()
    Calls(file, 2).dump({"w": Call()})
    return file.getvalue()


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
    data = b"\x80\x02" + b"".join(b"cm\nf%02d\n0" % i for i in range(30)) + b"N."
    assert len(globals_in(io.BytesIO(data))) == 30
    assert "`m.f19`, ..., and nothing" in _refusal(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02ccollections\nOrderedDict\n}X\x04\x00\x00\x00callN\x86sb.",  # BUILD on a stand-in
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aNsb.",
        b"\x80\x02ctorch\nFloatStorage\n(K\x01tR.",  # a storage type is no function
        b"\x80\x02ccollections\nOrderedDict\n](K\x01K\x02\x86e\x85R.",  # OrderedDict with items
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",  # NEWOBJ
        b"\x80\x02X\x01\x00\x00\x00aQ.",  # a persistent id that is text
    ],
)
def test_stand_ins_cannot_be_changed_or_misused(data):
    assert "cannot be unpickled: " in _refusal(data)
    assert list(read_state_dict(_pickled({"w": torch.zeros(1)}), "m.bin")) == ["w"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # LONG_BINPUT: the C unpickler makes room for 2^31 entries
        b"\x80\x05\x96" + (10**10).to_bytes(8, "little") + b".",  # BYTEARRAY8 of 10 GB
        b"\x80\x04\x8d" + (10**10).to_bytes(8, "little") + b"x.",  # BINUNICODE8 of 10 GB
        b"\x80\x04\x95" + (10**10).to_bytes(8, "little") + b"N.",  # FRAME of 10 GB
        # a key whose hash takes 2^60 steps, as item of a dict and as its only item
        b"\x80\x02}(N" + b"\x85q\x00h\x00\x86" * 60 + b"Nu.",
        b"\x80\x02}N" + b"\x85q\x00h\x00\x86" * 60 + b"Ns.",
    ],
)
def test_bombs_take_neither_memory_nor_time(data):
    tracemalloc.start()
    message = _refusal(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message.startswith("m.bin: ")
    assert peak < 10_000_000


def test_a_pickle_cut_off_anywhere_is_refused():
    data = _pickled({"w": torch.zeros(2), "v": torch.nn.Parameter(torch.zeros(1))})
    for length in range(len(data)):
        assert _refusal(data[:length]).startswith("m.bin: "), length


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (
            {"epoch": 3, "state_dict": {"w": torch.zeros(1)}, "lr": 0.1},
            "m.bin: is a wrapped state dict: its keys are `epoch`, `state_dict`, `lr`, and tensors are found"
            " under `state_dict`; save what is under `state_dict` as a file of its own",
        ),
        ({"w": torch.zeros(1), "step": 3}, "m.bin: `step` is of type int, not a tensor; save a plain state dict"),
        ({"w": torch.zeros(1), "more": {"lr": 1}}, "m.bin: `more` is of type dict, not a tensor; save a plain state dict"),
        ({3: torch.zeros(1)}, "m.bin: key `3` is of type int, not a name; save a plain state dict"),
        (torch.zeros(1), "m.bin: holds a tensor, not a state dict; save a plain state dict"),
        ([torch.zeros(1)], "m.bin: holds of type list, not a state dict; save a plain state dict"),
    ],
)
def test_what_is_no_flat_state_dict_is_refused_with_what_it_is(state, what):
    assert _refusal(_pickled(state)) == what


def test_the_helper_below_writes_what_torch_would():
    assert read_state_dict(_tensor("(1, (3,), (1,), False, {})"), "m.bin") == {
        "w": TensorView(Storage("0", "float32", 4), "float32", 1, (3,), (1,))
    }


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("(-1, (3,), (1,), False, {})", "a tensor's offset, sizes or strides are not whole numbers below 2^62"),
        ("(0, (True,), (1,), False, {})", "a tensor's offset, sizes or strides are not whole numbers below 2^62"),
        ("(0, (2 ** 62,), (1,), False, {})", "a tensor's offset, sizes or strides are not whole numbers below 2^62"),
        ("(0, (3, 1), (1,), False, {})", "a tensor has 2 sizes and 1 strides"),
        ("(0, (1,) * 65, (1,) * 65, False, {})", "a tensor has 65 sizes and 65 strides"),
        ("(0, (3,), (1,), False, {}, {'conj': True})", "a tensor is marked as a conjugate or negative view"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(arguments, what):
    assert _refusal(_tensor(arguments)) == f"m.bin: cannot be unpickled: {what}; it is damaged"


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
    assert _refusal(_tensor("(0, (3,), (1,), False, {})", storage="UntypedStorage")) == (
        "m.bin: cannot be unpickled: a tensor has no storage, or a dtype that safetensors cannot hold; it is damaged"
    )
