"""Safetensors folders, as the benchmarks need them: headers read and written by hand, so that nothing
measured here depends on the code that is being measured.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "I32": 4, "I64": 8}


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor's name, dtype tag and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Return the bytes that the tensor takes in a file."""
        return self.elements * BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file: its spec, the file, and the byte at which its data begin."""

    spec: Spec
    path: Path
    offset: int

    @property
    def nbytes(self) -> int:
        """Return the bytes that the tensor takes in its file."""
        return self.spec.nbytes


def shards(specs: Iterable[Spec], limit: int) -> list[list[Spec]]:
    """Cut the tensors, in order, into shards of at most `limit` bytes; a larger tensor gets its own."""
    cut: list[list[Spec]] = [[]]
    room = limit
    for spec in specs:
        if cut[-1] and spec.nbytes > room:
            cut.append([])
            room = limit
        cut[-1].append(spec)
        room -= spec.nbytes
    return cut


def shard_name(number: int, count: int) -> str:
    """Return the file name of shard `number` (from 1) of `count`, as transformers names it."""
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def header(specs: Iterable[Spec]) -> bytes:
    """Return the length and the JSON with which a safetensors file of these tensors begins."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        end = offset + spec.nbytes
        entries[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_sidecars(folder: Path, files: dict[str, list[Spec]], config: dict[str, Any]) -> None:
    """Write the index over `files` and `config.json`."""
    index = {
        "metadata": {"total_size": sum(spec.nbytes for specs in files.values() for spec in specs)},
        "weight_map": {spec.name: file for file, specs in files.items() for spec in specs},
    }
    write_json(folder / "model.safetensors.index.json", index)
    write_json(folder / "config.json", config)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def stored(folder: Path) -> dict[str, Stored]:
    """Return every tensor of the folder's safetensors files, by name."""
    found: dict[str, Stored] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.update((tensor.spec.name, tensor) for tensor in _entries(path))
    return found


def _entries(path: Path) -> Iterator[Stored]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    for name, entry in entries.items():
        if name != "__metadata__":
            spec = Spec(name, entry["dtype"], tuple(entry["shape"]))
            yield Stored(spec, path, 8 + length + entry["data_offsets"][0])


def warm(folders: Iterable[Path]) -> None:
    """Read every weight file once, so that the runs that follow find it in the page cache."""
    buffer = bytearray(16 << 20)
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def settle() -> None:
    """Wait until everything written before is on disk, so that no run pays for the one before it."""
    os.sync()
