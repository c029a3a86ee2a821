"""The header of a safetensors file: read from the first bytes alone and checked in full, or built.

u64 little-endian n | n bytes of JSON | data
name -> {"dtype", "shape", "data_offsets": [begin, end]}, offsets relative to byte 8 + n
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from xxhash import xxh3_128_digest

from surgery.checkpoint.files import LocalFile, Stamp
from surgery.checkpoint.strict_json import json_type, parse_object
from surgery.errors import CheckpointError
from surgery.tensors import DTYPES, TensorSpec

# The format's own limit, checked before anything of the header is read.
MAX_HEADER: Final = 100_000_000
# numpy's limit, and torch's in most kernels; it also bounds the work of multiplying a hostile shape's
# dimensions.
MAX_DIMENSIONS: Final = 64
_INT: Final = frozenset((int,))
_METADATA: Final = "__metadata__"


class Stored(NamedTuple):
    """A tensor in a file: its spec, the absolute offsets of its first byte and of the byte after its last."""

    spec: TensorSpec
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: tensors in the order of their offsets, the metadata, where the data begins."""

    path: Path
    tensors: dict[str, Stored]
    metadata: dict[str, str]
    data_start: int
    stamp: Stamp
    digest: bytes

    @property
    def size(self) -> int:
        """Return the file's size in bytes."""
        return self.stamp.size


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file; no weight is read.

    Raises CheckpointError, naming file, tensor and byte, for a header that is too long, cut off, or not the
    JSON it must be, and for tensors that leave holes, overlap, exceed the file or do not fit their shape.
    """
    file = LocalFile(path)
    try:
        stamp = file.stamp()
        data = _header_bytes(file, stamp.size)
    finally:
        file.close()
    return parse_header(path, data, stamp)


def parse_header(path: Path, data: bytes, stamp: Stamp) -> Header:
    """Return the checked header of a file of `stamp.size` bytes; `data` is its JSON, `path` is for messages."""
    entries = parse_object(data, f"{path}: header")
    metadata = _metadata(path, entries.pop(_METADATA, None))
    data_start = 8 + len(data)
    stored = [_stored(path, data_start, name, entry) for name, entry in entries.items()]
    stored.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_offsets(path, stored, data_start, stamp.size)
    _check_names(path, entries)
    tensors = {tensor.spec.name: tensor for tensor in stored}
    return Header(path, tensors, metadata, data_start, stamp, xxh3_128_digest(data))


def _header_bytes(file: LocalFile, size: int) -> bytes:
    """Return the JSON bytes; its claimed length is checked before memory is taken for it."""
    length = header_length(file.path, file.first_bytes(8), size)
    data = bytearray(length)
    file.read_into(8, memoryview(data), "header")
    return bytes(data)


def header_length(path: Path, start: bytes, size: int) -> int:
    """Return the length of the JSON that a file's first 8 bytes claim. Raises CheckpointError if it cannot be."""
    if size < 8:
        raise CheckpointError(f"{path}: is cut off: {size} bytes, a safetensors file has at least 10")
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER:
        raise CheckpointError(
            f"{path}: claims a header of {length} bytes, the format allows {MAX_HEADER};"
            " it is damaged or not a safetensors file"
        )
    if 8 + length > size:
        raise CheckpointError(
            f"{path}: is cut off: its header ends at byte {8 + length}, the file at byte {size};"
            " fetch the file again"
        )
    return length


def _metadata(path: Path, metadata: Any) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: header: `{_METADATA}` must be an object, got {json_type(metadata)}")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise CheckpointError(
                f"{path}: header: `{_METADATA}`: value of `{key}` must be a string, got {json_type(value)}"
            )
    return metadata


def _stored(path: Path, data_start: int, name: str, entry: Any) -> Stored:
    """Return a tensor from its entry, checked by itself.

    Runs 90,000 times for a large model: words only on errors.
    """
    if not isinstance(entry, dict):
        raise _refusal(path, name, f"its header entry must be an object, got {json_type(entry)}")
    tag: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    dtype = DTYPES.get(tag) if isinstance(tag, str) else None
    if dtype is None:
        raise _refusal(path, name, f"dtype must be one of {', '.join(DTYPES)}, got {_brief(tag)}")
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise _refusal(
            path, name, f"shape must be at most {MAX_DIMENSIONS} whole numbers, got {_brief(shape)}"
        )
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _refusal(path, name, f"data_offsets must be two whole numbers, got {_brief(offsets)}")
    bits = math.prod(shape) * dtype.bits
    begin, end = data_start + offsets[0], data_start + offsets[1]
    if bits != 8 * (end - begin):
        need = f"{bits // 8} bytes" if bits % 8 == 0 else f"{bits} bits, not whole bytes,"
        what = f"{tag} of shape {_brief(shape)} takes {need} but bytes {begin} to {end} are {end - begin}"
        raise _refusal(path, name, what)
    return Stored(TensorSpec(name, tuple(shape), dtype.tag), begin, end)


def _refusal(path: Path, name: str, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: tensor `{name}`: {what}")


def _are_counts(value: Any) -> bool:
    """Return whether `value` is a list of integers from 0 on; JSON's true and 1.0 are none."""
    return type(value) is list and _INT.issuperset(map(type, value)) and min(value, default=0) >= 0


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_offsets(path: Path, stored: list[Stored], data_start: int, size: int) -> None:
    """Check that the tensors fill the file to its last byte, each beginning where the one before ends."""
    at, before = data_start, ""
    for spec, begin, end in stored:
        if begin > at:
            raise CheckpointError(
                f"{path}: bytes {at} to {begin}, before tensor `{spec.name}`, belong to no tensor"
            )
        if begin < at:
            raise CheckpointError(
                f"{path}: tensor `{spec.name}` begins at byte {begin}"
                f" inside tensor `{before}`, which ends at byte {at}"
            )
        if end > size:
            raise CheckpointError(
                f"{path}: is cut off: tensor `{spec.name}` ends at byte {end}, the file at byte {size};"
                " fetch the file again"
            )
        at, before = end, spec.name
    if at != size:
        raise CheckpointError(f"{path}: bytes {at} to {size}, after the last tensor, belong to no tensor")


def _check_names(path: Path, names: Iterable[str]) -> None:
    """Refuse names with half a surrogate pair: JSON can escape one, no file can hold it."""
    for name in names:
        if _unwritable(name):
            raise CheckpointError(f"{path}: tensor name {name!r} is not valid Unicode")


def _unwritable(name: str) -> bool:
    return not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name)


def build_header(tensors: Iterable[TensorSpec], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes before the data of a file that holds `tensors` one after the other in this order.

    Reproducible: `__metadata__` first with sorted keys and always `format: pt`, compact JSON, spaces up to a
    multiple of 8 bytes. Raises CheckpointError for names and sizes that the format cannot hold.
    """
    entries: dict[str, Any] = {_METADATA: dict(sorted({"format": "pt", **(metadata or {})}.items()))}
    end = 0
    for spec in tensors:
        if spec.name in entries or _unwritable(spec.name):
            raise CheckpointError(
                f"output: tensor name {spec.name!r} is reserved, used twice or not valid Unicode"
            )
        if spec.numel * DTYPES[spec.dtype].bits % 8:
            raise CheckpointError(
                f"output: tensor `{spec.name}`:"
                f" {spec.dtype} of shape {list(spec.shape)} does not fill whole bytes"
            )
        begin, end = end, end + spec.nbytes
        entries[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": (begin, end)}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"), check_circular=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise CheckpointError(
            f"output: a header of {len(text)} bytes, the format allows {MAX_HEADER}; lower output.shard_size"
        )
    return len(text).to_bytes(8, "little") + text
