"""The bytes of arrays and tensors in memory, and what spec they have.

torch is imported only if a tensor comes.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

import numpy as np

from surgery.errors import CheckpointError
from surgery.tensors import DTYPES, TensorSpec, tag_of

_F4: Final = "F4"


def spec_and_bytes(name: str, value: Any) -> tuple[TensorSpec, memoryview]:
    """Return spec and bytes (C order, little-endian) of a numpy array or torch tensor on any device.

    The bytes are the value's own memory if that is contiguous and on the CPU, else a copy.
    Raises CheckpointError for dtypes that safetensors has not, and for tensors without memory.
    """
    tag = _tag(name, value)
    data = _tensor_bytes(name, value) if hasattr(value, "detach") else _array_bytes(np.asarray(value))
    shape = tuple(int(size) for size in value.shape)
    if tag == _F4:
        shape = (*shape[:-1], shape[-1] * 2) if shape else (2,)  # torch counts pairs of 4-bit numbers
    return TensorSpec(name, shape, tag), memoryview(data)


def memory_key(value: Any) -> Hashable:
    """Return a key that two values share exactly if they are the same elements of the same memory."""
    if hasattr(value, "detach"):
        address, strides = value.data_ptr(), value.stride()
    elif isinstance(value, np.ndarray) and value.size:
        address, strides = value.__array_interface__["data"][0], value.strides
    else:
        address = 0  # numpy's scalars are copied whenever they are looked at
    # what has no elements or no memory is itself only
    return (
        (str(value.device), address, tuple(value.shape), strides, str(value.dtype)) if address else id(value)
    )


def _tag(name: str, value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    word = getattr(dtype, "name", str(dtype))  # numpy's dtypes have names, torch's are named by str
    try:
        return tag_of(word)
    except KeyError:
        known = ", ".join(sorted(dtype.torch for dtype in DTYPES.values() if dtype.torch))
        raise CheckpointError(f"memory: tensor `{name}`: dtype must be one of {known}, got {word}") from None


def _array_bytes(array: Any) -> memoryview:
    array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return memoryview(array.reshape(-1).view(np.uint8))


def _tensor_bytes(name: str, tensor: Any) -> memoryview:
    import torch

    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise CheckpointError(
            f"memory: tensor `{name}` is sparse, quantised or on the meta device: it has no plain bytes"
        )
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return memoryview(plain.reshape(-1).view(torch.uint8).numpy())
