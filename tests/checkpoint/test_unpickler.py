from __future__ import annotations

import contextlib
import io
import pickle
import struct
import tracemalloc
import zipfile

import pytest
import torch

from surgery.checkpoint.unpickler import Storage, TensorView, UnknownGlobal, Unpickler, globals_in


def _pickled(value) -> bytes:
    """Return data.pkl of what torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file)
    with zipfile.ZipFile(file) as archive:
        return archive.read("archive/data.pkl")


def _load(data: bytes):
    return Unpickler(io.BytesIO(data)).load()


def _tensor(*arguments, storage: bytes = b"FloatStorage") -> bytes:
    """Return a pickle of {"w": _rebuild_tensor_v2(storage, *arguments)}; the storage has 4 elements."""
    rest = b"".join(pickle.dumps(argument, 2)[2:-1] for argument in arguments)  # without PROTO and STOP
    text = {word: b"X" + len(word).to_bytes(4, "little") + word for word in (b"w", b"storage", b"0", b"cpu")}
    pid = b"(" + text[b"storage"] + b"ctorch\n" + storage + b"\n" + text[b"0"] + text[b"cpu"] + b"K\x04tQ"
    return b"\x80\x02}" + text[b"w"] + b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + rest + b"tRs."


def test_the_helper_above_writes_what_torch_would():
    assert _load(_tensor(1, (3,), (1,), False, {})) == {
        "w": TensorView(Storage("0", "float32", 4), "float32", 1, (3,), (1,))
    }


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((-1, (3,), (1,), False, {}), "a tensor's offset, sizes or strides are not whole numbers below 2^62"),
        (
            (0, (True,), (1,), False, {}),
            "a tensor's offset, sizes or strides are not whole numbers below 2^62",
        ),
        (
            (0, (2**62,), (1,), False, {}),
            "a tensor's offset, sizes or strides are not whole numbers below 2^62",
        ),
        ((0, (3, 1), (1,), False, {}), "a tensor has 2 sizes and 1 strides"),
        ((0, (1,) * 65, (1,) * 65, False, {}), "a tensor has 65 sizes and 65 strides"),
        ((0, (3,), (1,), False, {}, {"conj": True}), "a tensor is marked as a conjugate or negative view"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(arguments, what):
    with pytest.raises(pickle.UnpicklingError) as caught:
        _load(_tensor(*arguments))
    assert str(caught.value) == what


def test_an_untyped_storage_makes_no_tensor_without_a_dtype():
    with pytest.raises(pickle.UnpicklingError) as caught:
        _load(_tensor(0, (3,), (1,), False, {}, storage=b"UntypedStorage"))
    assert str(caught.value) == "a tensor has no storage, or a dtype that safetensors cannot hold"


def test_an_unknown_global_is_refused_before_it_is_imported():
    with pytest.raises(UnknownGlobal, match=r"^no_such_module\.function$"):
        _load(b"\x80\x02cno_such_module\nfunction\n.")


def test_the_globals_of_several_pickles_are_listed_once_each():
    data = b"\x80\x02cm\ng\n." + b"\x80\x02cm\nf\n)R(cm\ng\nccollections\nOrderedDict\n)Rt."
    assert globals_in(io.BytesIO(data)) == ["m.g"]
    assert globals_in(io.BytesIO(data), pickles=2) == ["m.f", "m.g"]
    assert globals_in(io.BytesIO(data[:-12]), pickles=2) == ["m.f", "m.g"], "as far as it goes"


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
    with pytest.raises((pickle.UnpicklingError, TypeError, AttributeError, ValueError)):
        _load(data)
    assert list(_load(_pickled({"w": torch.zeros(1)}))) == ["w"], "the next pickle finds all as it was"


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
    with contextlib.suppress(pickle.UnpicklingError, EOFError, UnicodeDecodeError):
        _load(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_pickle_cut_off_anywhere_is_refused():
    data = _pickled({"w": torch.zeros(2), "v": torch.nn.Parameter(torch.zeros(1))})
    for length in range(len(data)):
        with pytest.raises((pickle.UnpicklingError, EOFError, IndexError, struct.error, UnicodeDecodeError)):
            _load(data[:length])
