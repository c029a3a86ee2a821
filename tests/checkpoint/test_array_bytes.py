from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery.checkpoint.array_bytes import memory_key, spec_and_bytes
from surgery.errors import CheckpointError
from surgery.tensors import DTYPES, TensorSpec


def test_every_torch_dtype_has_its_tag_and_bytes(every_dtype, bytes_of):
    for word, tensor in every_dtype.items():
        spec, data = spec_and_bytes("w", tensor)
        assert DTYPES[spec.dtype].torch == word
        assert spec.shape == tuple(tensor.shape)
        assert bytes(data) == bytes_of(tensor)
    assert len(every_dtype) == 19


@pytest.mark.parametrize(
    ("word", "tag"),
    [("float64", "F64"), ("float32", "F32"), ("float16", "F16"), ("complex64", "C64"), ("bool", "BOOL")]
    + [
        (f"{sign}int{bits}", f"{tag}{bits}")
        for sign, tag in (("", "I"), ("u", "U"))
        for bits in (8, 16, 32, 64)
    ],
)
def test_every_numpy_dtype_has_its_tag_and_bytes(word, tag):
    array = np.array([[0, 1, 1], [1, 0, 1]], dtype=word)
    spec, data = spec_and_bytes("w", array)
    assert spec == TensorSpec("w", (2, 3), tag)
    assert bytes(data) == array.tobytes()


def test_four_bit_tensors_have_the_shape_of_their_elements():
    codes = torch.arange(4, dtype=torch.uint8).reshape(2, 2)
    spec, data = spec_and_bytes("w", codes.view(torch.float4_e2m1fn_x2))
    assert spec == TensorSpec("w", (2, 4), "F4")
    assert bytes(data) == bytes(range(4))


@pytest.mark.parametrize("value", [np.float32(2.0), np.array(2.0, np.float32), torch.tensor(2.0)])
def test_scalars_have_no_dimensions(value):
    spec, data = spec_and_bytes("w", value)
    assert spec == TensorSpec("w", (), "F32")
    assert bytes(data) == np.float32(2.0).tobytes()


@pytest.mark.parametrize("value", [np.zeros((0, 4), np.int8), torch.zeros(0, 4, dtype=torch.int8)])
def test_tensors_without_elements_have_no_bytes(value):
    spec, data = spec_and_bytes("w", value)
    assert (spec, data.nbytes) == (TensorSpec("w", (0, 4), "I8"), 0)


def test_big_endian_and_strided_arrays_come_out_in_order():
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    _, data = spec_and_bytes("w", array)
    assert np.frombuffer(data, "<i4").tolist() == [0, 3, 1, 4, 2, 5]


def test_strided_conjugate_and_trainable_tensors_come_out_in_order(bytes_of):
    values = torch.tensor([[1 + 2j, 3j], [4 + 0j, 5 - 1j]], dtype=torch.complex64)
    _, data = spec_and_bytes("w", values.t().conj())
    assert bytes(data) == bytes_of(values.t().conj().resolve_conj())
    _, data = spec_and_bytes("w", torch.nn.Parameter(torch.ones(2, 3)).t())
    assert bytes(data) == bytes_of(torch.ones(6))


def test_contiguous_values_are_not_copied():
    for value in (np.zeros(2, np.int8), torch.zeros(2, dtype=torch.int8)):
        _, data = spec_and_bytes("w", value)
        value[1] = 7
        assert bytes(data) == b"\x00\x07"


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (np.zeros(2, "U3"), "str96"),
        (np.zeros(2, complex), "complex128"),
        (torch.zeros(2, dtype=torch.complex128), "torch.complex128"),
        ([1, 2], "None"),
    ],
)
def test_dtypes_that_safetensors_has_not_are_refused(value, got):
    with pytest.raises(CheckpointError) as caught:
        spec_and_bytes("w", value)
    assert str(caught.value) == (
        "memory: tensor `w`: dtype must be one of bfloat16, bool, complex64, float16, float32,"
        " float4_e2m1fn_x2, float64, float8_e4m3fn, float8_e4m3fnuz, float8_e5m2, float8_e5m2fnuz,"
        f" float8_e8m0fnu, int16, int32, int64, int8, uint16, uint32, uint64, uint8, got {got}"
    )


@pytest.mark.parametrize("tensor", [torch.zeros(2, device="meta"), torch.zeros(2, 2).to_sparse()])
def test_tensors_without_plain_bytes_are_refused(tensor):
    with pytest.raises(CheckpointError) as caught:
        spec_and_bytes("w", tensor)
    assert str(caught.value) == (
        "memory: tensor `w` is sparse, quantised or on the meta device: it has no plain bytes"
    )


@pytest.mark.parametrize("base", [np.arange(6.0), torch.arange(6.0)])
def test_the_same_elements_of_the_same_memory_have_the_same_key(base):
    assert memory_key(base) == memory_key(base[:])
    assert memory_key(base) != memory_key(base[:3])
    assert memory_key(base) != memory_key(base[1:])
    assert memory_key(base) != memory_key(base.reshape(2, 3))
    assert memory_key(base) != memory_key(base + 0)


def test_what_has_no_elements_or_no_memory_shares_nothing():
    values = [np.zeros(0), np.zeros(0), torch.zeros(0), torch.zeros(0), np.float32(1), np.float32(1)]
    assert len({memory_key(value) for value in values}) == 6
