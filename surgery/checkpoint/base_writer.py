"""What every writer of weights promises.

Bytes may come in any order and from any thread: places are fixed before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from surgery.checkpoint.layout import Place, Shard, ShardLayout


class Writer(ABC):
    """Writes a layout's tensors: `create`, `write_at` and `sync` in any order, then `finish` and `close`."""

    layout: ShardLayout

    @abstractmethod
    def create(self, files: Iterable[str] | None = None) -> frozenset[str]:
        """Make room for everything that will be written to `files` (default: all), or take up what is there.

        Returns the files that were there and keep their bytes: for these, and only these, a journal may be
        right. Raises ResourceError if there is not enough room for all.
        """

    @abstractmethod
    def write_at(self, name: str, start: int, data: memoryview) -> None:
        """Put bytes of a tensor, from its byte `start` on, in their place. Thread-safe.

        Raises ResourceError when the device is full, broken or read-only.
        """

    @abstractmethod
    def read_back(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes that are in place from the tensor's byte `start` on. Thread-safe."""

    @abstractmethod
    def sync(self, names: Iterable[str] | None = None) -> None:
        """Return when what was written of these tensors (default: of all) survives a power cut."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is left (the index) and sync everything; the tensors must be complete."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files. Further writes are errors."""

    def chosen(self, files: Iterable[str] | None) -> list[Shard]:
        """Return the shards of these files, in order; all for None."""
        wanted = None if files is None else set(files)
        return [shard for shard in self.layout.shards if wanted is None or shard.file in wanted]

    def place(self, name: str, start: int, nbytes: int) -> Place:
        """Return a tensor's place. Raises ValueError for a stretch that is not inside the tensor."""
        place = self.layout.places[name]
        if start < 0 or start + nbytes > place.nbytes:
            raise ValueError(f"{name}: bytes {start} to {start + nbytes} of {place.nbytes}")
        return place
