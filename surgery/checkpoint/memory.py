"""Checkpoints in memory, the twins of readers and writers for tests and notebooks; the `memory:` scheme."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from xxhash import xxh3_128

from surgery.checkpoint.array_bytes import memory_key, spec_and_bytes
from surgery.checkpoint.base import Checkpoint, Scheme
from surgery.checkpoint.base_writer import Writer
from surgery.checkpoint.layout import ShardLayout
from surgery.errors import CheckpointError, did_you_mean
from surgery.tensors import TensorSpec


class MemoryCheckpoint(Checkpoint):
    """A checkpoint whose bytes are in memory; contiguous CPU tensors are not copied, `close` keeps them."""

    def __init__(
        self,
        tensors: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        sidecars: Mapping[str, Path] | None = None,
        location: str = "memory",
    ) -> None:
        """Take numpy arrays and torch tensors by name.

        Names of the same memory, shape and dtype become aliases.
        """
        self._data: dict[str, memoryview] = {}
        self._describe(config, sidecars, location)
        specs: dict[str, TensorSpec] = {}
        aliases: dict[str, str] = {}
        first: dict[Hashable, str] = {}
        for name, value in tensors.items():
            spec, data = spec_and_bytes(name, value)
            same = first.setdefault(memory_key(value), name)
            if same == name:
                specs[name], self._data[name] = spec, data
            else:
                aliases[name] = same
        self.tensors, self.aliases = specs, aliases

    @classmethod
    def of_bytes(
        cls,
        specs: Iterable[TensorSpec],
        data: Mapping[str, memoryview],
        config: Mapping[str, Any] | None = None,
        sidecars: Mapping[str, Path] | None = None,
        location: str = "memory",
    ) -> Self:
        """Return a checkpoint of tensors given as bytes (C order, little-endian), which are not copied."""
        made = cls({}, config, sidecars, location)
        made.tensors = {spec.name: spec for spec in specs}
        made._data = {
            name: data[name].cast("B") if data[name].nbytes else memoryview(b"") for name in made.tensors
        }
        for name, spec in made.tensors.items():
            if made._data[name].nbytes != spec.nbytes:
                raise CheckpointError(
                    f"{location}: tensor `{name}` has {made._data[name].nbytes} bytes,"
                    f" its spec takes {spec.nbytes}"
                )
        return made

    def _describe(
        self, config: Mapping[str, Any] | None, sidecars: Mapping[str, Path] | None, location: str
    ) -> None:
        self.location = location
        self.config = dict(config or {})
        self.sidecars = dict(sidecars or {})

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on."""
        data = self._data[name]
        if start < 0 or start + buffer.nbytes > data.nbytes:
            raise ValueError(f"{name}: bytes {start} to {start + buffer.nbytes} of {data.nbytes}")
        if buffer.nbytes:
            buffer.cast("B")[:] = data[start : start + buffer.nbytes]

    def extent(self, name: str) -> None:
        """Return None: the bytes are in no file."""

    def identity(self, name: str) -> bytes:
        """Return a digest of the tensor's bytes as they are now: reading them costs next to nothing here."""
        digest = xxh3_128(repr((name, self.tensors[name].shape, self.tensors[name].dtype)).encode())
        digest.update(self._data[name])
        return digest.digest()


class MemoryWriter(Writer):
    """Writes a layout's tensors to memory; `checkpoint()` reads them back."""

    def __init__(self, layout: ShardLayout) -> None:
        self.layout = layout
        self._data: dict[str, memoryview] = {}

    def create(self, files: Iterable[str] | None = None) -> frozenset[str]:
        """Make buffers for all tensors of `files` (default: of all), zeroed. Keeps those that are there."""
        chosen = self.chosen(files)
        kept = frozenset(
            shard.file for shard in chosen if all(spec.name in self._data for spec in shard.tensors)
        )
        for shard in chosen:
            for spec in shard.tensors:
                self._data.setdefault(spec.name, memoryview(bytearray(spec.nbytes)))
        return kept

    def write_at(self, name: str, start: int, data: memoryview) -> None:
        """Put bytes of a tensor, from its byte `start` on, in their place."""
        self.place(name, start, data.nbytes)
        if data.nbytes:
            self._data[name][start : start + data.nbytes] = data.cast("B")

    def read_back(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with what was written at byte `start` of the tensor."""
        self.place(name, start, buffer.nbytes)
        if buffer.nbytes:
            buffer.cast("B")[:] = self._data[name][start : start + buffer.nbytes]

    def sync(self, names: Iterable[str] | None = None) -> None:
        """Do nothing: memory needs no syncing."""

    def finish(self) -> None:
        """Do nothing: there is no index to write."""

    def close(self) -> None:
        """Do nothing: what was written stays readable."""

    def checkpoint(
        self,
        config: Mapping[str, Any] | None = None,
        sidecars: Mapping[str, Path] | None = None,
        location: str = "memory",
    ) -> MemoryCheckpoint:
        """Return a checkpoint of what was written, without copying it."""
        specs = [spec for shard in self.layout.shards for spec in shard.tensors if spec.name in self._data]
        return MemoryCheckpoint.of_bytes(specs, self._data, config, sidecars, location)


_REGISTERED: Final[dict[str, Checkpoint]] = {}


def register_memory(name: str, checkpoint: Checkpoint) -> None:
    """Let recipes of this process read `checkpoint` as `memory:NAME`, instead of what had the name before."""
    _REGISTERED[name] = checkpoint


def memory_scheme() -> Scheme:
    """Return the scheme `memory:NAME`."""
    return Scheme("memory", _open_registered)


def _open_registered(name: str, folder: Path) -> Checkpoint:
    if name not in _REGISTERED:
        raise CheckpointError(
            f"memory:{name}: nothing is registered under this name" + did_you_mean(name, _REGISTERED)
        )
    return _REGISTERED[name]
