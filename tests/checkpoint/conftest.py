from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture
def raw_safetensors(tmp_path: Path) -> Callable[..., Path]:
    """Write a file byte for byte: header, data, and the header length that is claimed.

    A header given as an object is padded with spaces so that the data begins at byte 200.
    """

    def write(header, data: bytes = b"", *, length: int | None = None, name: str = "m.safetensors") -> Path:
        text = header if isinstance(header, str | bytes) else json.dumps(header).ljust(192)
        text = text.encode() if isinstance(text, str) else text
        path = tmp_path / name
        path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
        return path

    return write


@pytest.fixture
def rezip() -> Callable[..., Path]:
    """Write a torch archive anew with some entries replaced (bytes) or left out (None)."""

    def write(path: Path, changes: Mapping[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        root = next(iter(entries)).partition("/")[0]
        entries |= {f"{root}/{name}": data for name, data in changes.items()}
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in entries.items():
                if data is not None:
                    archive.writestr(name, data)
        return path

    return write


@pytest.fixture
def whole() -> Callable[..., bytes]:
    """Return all bytes of a checkpoint's tensor, read in two parts."""

    def read(checkpoint, name: str) -> bytes:
        data = bytearray(checkpoint.tensors[name].nbytes)
        cut = len(data) // 3
        checkpoint.read_into(name, cut, memoryview(data)[cut:])
        checkpoint.read_into(name, 0, memoryview(data)[:cut])
        return bytes(data)

    return read


@pytest.fixture
def bytes_of() -> Callable[[torch.Tensor], bytes]:
    """Return a tensor's bytes in C order, as torch has them."""

    def get(tensor: torch.Tensor) -> bytes:
        return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return get


CODES = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e8m0fnu",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "complex64",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
]


@pytest.fixture
def every_dtype() -> dict[str, torch.Tensor]:
    """Return a tensor of shape [3, 8] of every dtype that safetensors has and torch can store, random bytes."""
    random = np.random.default_rng(0)
    tensors = {"bool": torch.tensor([[True, False, True]])}
    for word in CODES:
        dtype = getattr(torch, word)
        codes = random.integers(0, 255, (3, 8 * dtype.itemsize), dtype=np.uint8)
        tensors[word] = torch.from_numpy(codes).view(dtype)
    return tensors
