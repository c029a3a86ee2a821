from __future__ import annotations

import json
import os
import time
import tracemalloc

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from surgery.checkpoint.header import MAX_HEADER, Stored, build_header, read_header
from surgery.errors import CheckpointError
from surgery.tensors import DTYPES, TensorSpec

A = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}
B = {"dtype": "BF16", "shape": [1, 2], "data_offsets": [2, 6]}


def _refusal(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_names_shapes_and_absolute_offsets_are_read_in_the_order_of_the_offsets(raw_safetensors):
    path = raw_safetensors({"b": B, "a": A, "__metadata__": {"format": "pt", "x": "y"}}, b"123456")
    header = read_header(path)
    assert list(header.tensors.items()) == [
        ("a", Stored(TensorSpec("a", (2,), "U8"), 200, 202)),
        ("b", Stored(TensorSpec("b", (1, 2), "BF16"), 202, 206)),
    ]
    assert header.metadata == {"format": "pt", "x": "y"}
    assert (header.data_start, header.size, header.path) == (200, 206, path)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({}, b""),
        ({"scalar": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, b"1234"),
        ({"empty": {"dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0]}}, b""),
        ({"z": {"dtype": "U8", "shape": [0], "data_offsets": [2, 2]}, "a": A}, b"12"),
        ({"a": A | {"unknown": {"key": 1}}}, b"12"),
        ({"a": A, "__metadata__": None}, b"12"),
        ({"a/../b": A, "ж": {"dtype": "I8", "shape": [1], "data_offsets": [2, 3]}}, b"123"),
        (json.dumps({"a": A}) + " \n\t ", b"12"),
        ({"a": {"dtype": "F4", "shape": [4, 2], "data_offsets": [0, 4]}}, b"1234"),
        ({"a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}, b"123"),
    ],
)
def test_what_is_unusual_but_legal_is_accepted_as_by_the_library(raw_safetensors, header, data):
    path = raw_safetensors(header, data)
    with safetensors.safe_open(path, "pt") as theirs:
        assert set(read_header(path).tensors) == set(theirs.keys())


def test_every_dtype_shape_and_offset_agrees_with_the_library(tmp_path, every_dtype):
    path = tmp_path / "m.safetensors"
    tensors = every_dtype | {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4)}
    save_file(tensors, path, {"format": "pt"})
    header = read_header(path)
    data = path.read_bytes()
    with safetensors.safe_open(path, "pt") as theirs:
        assert set(header.tensors) == set(theirs.keys())
        for name, (spec, begin, end) in header.tensors.items():
            assert spec.shape == tuple(theirs.get_slice(name).get_shape())
            assert spec.dtype == theirs.get_slice(name).get_dtype()
            assert data[begin:end] == tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_claimed_header_of_ten_gigabytes_is_refused_before_memory_is_taken_for_it(raw_safetensors):
    path = raw_safetensors(b"x" * 92, length=10_000_000_000)
    tracemalloc.start()
    message = _refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message == (
        f"claims a header of 10000000000 bytes, the format allows {MAX_HEADER};"
        " it is damaged or not a safetensors file"
    )
    assert peak < 100_000


def test_a_header_longer_than_the_file_is_refused_before_memory_is_taken_for_it(raw_safetensors):
    path = raw_safetensors(b"x" * 92, length=MAX_HEADER)
    assert _refusal(path) == (
        "is cut off: its header ends at byte 100000008, the file at byte 100; fetch the file again"
    )


def test_a_file_cut_off_anywhere_is_refused(raw_safetensors):
    path = raw_safetensors({"a": A, "b": B}, b"123456")
    data = path.read_bytes()
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        assert "is cut off: " in _refusal(path), length


@pytest.mark.parametrize(
    ("length", "what"),
    [
        (0, "is cut off: 0 bytes, a safetensors file has at least 10"),
        (7, "is cut off: 7 bytes, a safetensors file has at least 10"),
        (8, "is cut off: its header ends at byte 200, the file at byte 8; fetch the file again"),
        (200, "is cut off: tensor `a` ends at byte 202, the file at byte 200; fetch the file again"),
        (205, "is cut off: tensor `b` ends at byte 206, the file at byte 205; fetch the file again"),
    ],
)
def test_a_file_cut_off_at_a_boundary_says_what_ends_where(raw_safetensors, length, what):
    path = raw_safetensors({"a": A, "b": B}, b"123456")
    path.write_bytes(path.read_bytes()[:length])
    assert _refusal(path) == what


def _with(**changes):
    return {"a": A | changes}


@pytest.mark.parametrize(
    ("header", "data", "what"),
    [
        ({"a": A}, b"123", "bytes 202 to 203, after the last tensor, belong to no tensor"),
        (_with(data_offsets=[1, 3]), b"123", "bytes 200 to 201, before tensor `a`, belong to no tensor"),
        (
            {"a": A, "b": B | {"data_offsets": [1, 5]}},
            b"12345",
            "tensor `b` begins at byte 201 inside tensor `a`, which ends at byte 202",
        ),
        (
            {"a": A, "b": A},
            b"12",
            "tensor `b` begins at byte 200 inside tensor `a`, which ends at byte 202",
        ),
        (_with(shape=[3]), b"12", "tensor `a`: U8 of shape [3] takes 3 bytes but bytes 200 to 202 are 2"),
        (
            _with(dtype="F4", shape=[3]),
            b"12",
            "tensor `a`: F4 of shape [3] takes 12 bits, not whole bytes, but bytes 200 to 202 are 2",
        ),
        (
            _with(data_offsets=[2, 0]),
            b"12",
            "tensor `a`: U8 of shape [2] takes 2 bytes but bytes 202 to 200 are -2",
        ),
        (_with(shape=[-2]), b"12", "tensor `a`: shape must be at most 64 whole numbers, got [-2]"),
        (_with(shape=[2.0]), b"12", "tensor `a`: shape must be at most 64 whole numbers, got [2.0]"),
        (_with(shape=[True, 2]), b"12", "tensor `a`: shape must be at most 64 whole numbers, got [true, 2]"),
        (_with(shape="2"), b"12", 'tensor `a`: shape must be at most 64 whole numbers, got "2"'),
        (
            _with(data_offsets=[-1, 1]),
            b"12",
            "tensor `a`: data_offsets must be two whole numbers, got [-1, 1]",
        ),
        (
            _with(data_offsets=[0, 1, 2]),
            b"12",
            "tensor `a`: data_offsets must be two whole numbers, got [0, 1, 2]",
        ),
        (_with(data_offsets=None), b"12", "tensor `a`: data_offsets must be two whole numbers, got null"),
        (
            _with(dtype="F8_E4M3FN"),
            b"12",
            f'tensor `a`: dtype must be one of {", ".join(DTYPES)}, got "F8_E4M3FN"',
        ),
        (_with(dtype=["U8"]), b"12", f'tensor `a`: dtype must be one of {", ".join(DTYPES)}, got ["U8"]'),
        ({"a": [0, 2]}, b"12", "tensor `a`: its header entry must be an object, got an array"),
        ({"__metadata__": ["pt"]}, b"", "header: `__metadata__` must be an object, got an array"),
        (
            {"__metadata__": {"format": "pt", "epoch": 3}},
            b"",
            "header: `__metadata__`: value of `epoch` must be a string, got an integer",
        ),
        (
            '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"1",
            "header is not acceptable JSON: key `a` appears twice; the file is damaged or hostile",
        ),
        (
            '{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"1",
            "header is not acceptable JSON: key `dtype` appears twice; the file is damaged or hostile",
        ),
        (b'{"\xff":1}', b"", "header is not UTF-8 at byte 2; the file is damaged"),
        ("[]", b"", "header must be a JSON object, got an array; the file is damaged"),
        ('{"\\ud800":' + json.dumps(A) + "}", b"12", r"tensor name '\ud800' is not valid Unicode"),
    ],
)
def test_what_is_inconsistent_or_hostile_is_refused_by_name_and_byte(raw_safetensors, header, data, what):
    assert _refusal(raw_safetensors(header, data)) == what


@pytest.mark.parametrize("shape", [[10**18] * 65, [10**1000, 10**1000], [0] + [10**4000] * 63])
def test_dimensions_of_any_size_are_refused_in_no_time(raw_safetensors, shape):
    path = raw_safetensors(_with(shape=shape), b"12")
    began = time.monotonic()
    assert len(_refusal(path)) < 20_000
    assert time.monotonic() - began < 1


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 199), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 3),
)
def test_whatever_is_accepted_of_a_damaged_file_the_library_accepts_too(raw_safetensors, flips, cut):
    path = raw_safetensors({"a": A, "b": B, "c": A | {"data_offsets": [6, 8]}}, b"12345678")
    data = bytearray(path.read_bytes())
    for place, value in flips:
        data[place % len(data)] = value
    path.write_bytes(data[: len(data) - cut])
    try:
        mine = read_header(path)
    except CheckpointError:
        return
    with safetensors.safe_open(path, "np") as theirs:
        assert set(theirs.keys()) == set(mine.tensors)


def test_headers_of_thousands_of_tensors_take_well_under_a_second(raw_safetensors):
    specs = [
        TensorSpec(f"model.layers.0.mlp.experts.{i}.gate_proj.weight", (4, 2), "BF16") for i in range(5000)
    ]
    path = raw_safetensors({})
    path.write_bytes(build_header(specs) + bytes(16 * 5000))
    began = time.process_time()
    assert len(read_header(path).tensors) == 5000
    assert time.process_time() - began < 0.9  # about 0.06 on an idle core: 90,000 in one or two seconds


def test_a_built_header_is_compact_padded_and_begins_with_the_metadata():
    specs = [TensorSpec("b", (2, 3), "F32"), TensorSpec("a/ж", (), "U8")]
    built = build_header(specs, {"z": "1", "a": "2"})
    text = (
        '{"__metadata__":{"a":"2","format":"pt","z":"1"},'
        '"b":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
        '"a/ж":{"dtype":"U8","shape":[],"data_offsets":[24,25]}}'
    ).encode()
    length = -(-len(text) // 8) * 8
    assert built == length.to_bytes(8, "little") + text.ljust(length)
    assert len(built) % 8 == 0


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda name: name != "__metadata__"
)
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
whole_byte_dtypes = [tag for tag, dtype in DTYPES.items() if dtype.bits >= 8]
specs = st.lists(
    st.builds(TensorSpec, names, shapes, st.sampled_from(whole_byte_dtypes)),
    max_size=8,
    unique_by=lambda spec: spec.name,
)
metadata = st.dictionaries(names, names, max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(specs=specs, metadata=metadata)
def test_what_is_built_is_read_back_by_us_and_by_the_library(tmp_path, specs, metadata):
    path = tmp_path / "m.safetensors"
    header = build_header(specs, metadata)
    path.write_bytes(header + bytes(sum(spec.nbytes for spec in specs)))
    read = read_header(path)
    assert [stored.spec for stored in read.tensors.values()] == sorted(
        specs, key=lambda spec: (read.tensors[spec.name].begin, read.tensors[spec.name].end)
    )
    assert set(read.tensors) == {spec.name for spec in specs}
    assert read.metadata == {"format": "pt", **metadata}
    assert read.data_start == len(header)
    with safetensors.safe_open(path, "np") as theirs:
        assert set(theirs.keys()) == set(read.tensors)
        assert theirs.metadata() == read.metadata


@pytest.mark.parametrize(
    ("specs", "what"),
    [
        (
            [TensorSpec("a", (1,), "U8"), TensorSpec("a", (1,), "U8")],
            "output: tensor name 'a' is reserved, used twice or not valid Unicode",
        ),
        (
            [TensorSpec("__metadata__", (1,), "U8")],
            "output: tensor name '__metadata__' is reserved, used twice or not valid Unicode",
        ),
        (
            [TensorSpec("\ud800", (1,), "U8")],
            r"output: tensor name '\ud800' is reserved, used twice or not valid Unicode",
        ),
        ([TensorSpec("a", (3,), "F4")], "output: tensor `a`: F4 of shape [3] does not fill whole bytes"),
        (
            [TensorSpec("a" * MAX_HEADER, (1,), "U8")],
            f"output: a header of {MAX_HEADER + 88} bytes, the format allows {MAX_HEADER}; lower output.shard_size",
        ),
    ],
)
def test_what_the_format_cannot_hold_is_not_built(specs, what):
    with pytest.raises(CheckpointError) as caught:
        build_header(specs)
    assert str(caught.value) == what
