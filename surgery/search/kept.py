"""Source tensors that stay in memory between candidates, up to a budget.

Reading a local file again is a copy out of the page cache, which this saves little of (15 % of a candidate's processor
time, measured on the zoo); what pays is not doing again what a reader computes (folding an adapter, codes times scales)
or fetches over a network.
"""

from __future__ import annotations

import threading

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.checkpoint.view import View


class Room:
    """Bytes that may still be kept, shared by all sources."""

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> bool:
        """Take bytes if there are as many left."""
        with self._lock:
            if nbytes > self._left:
                return False
            self._left -= nbytes
            return True


class KeptCheckpoint(View):
    """A checkpoint that reads each tensor from its source once, whole, as long as there is room."""

    def __init__(self, source: Checkpoint, room: Room) -> None:
        super().__init__(source)
        self._source, self._room = source, room
        self._bytes: dict[str, memoryview | None] = {}  # None: there was no room
        self._lock = threading.Lock()

    def made_of(self, name: str) -> list[tuple[Checkpoint, str]]:
        """Return the source's tensor."""
        return [(self._source, name)]

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on."""
        kept = self._whole(name)
        if kept is None:
            self._source.read_into(name, start, buffer)
        elif buffer.nbytes:
            buffer.cast("B")[:] = kept[start : start + buffer.nbytes]

    def _whole(self, name: str) -> memoryview | None:
        """Return a tensor's bytes; None if they are not kept. The first to ask reads them."""
        if name in self._bytes:
            return self._bytes[name]
        with self._lock:
            if name not in self._bytes:
                size = self.tensors[name].nbytes
                whole = memoryview(bytearray(size)) if self._room.take(size) else None
                if whole:
                    self._source.read_into(name, 0, whole)
                self._bytes[name] = whole
            return self._bytes[name]

    def extent(self, name: str) -> Extent | None:
        """Return where the tensor's bytes lie in a local file."""
        return self._source.extent(name)

    def identity(self, name: str) -> bytes:
        """Return the source's digest of the tensor."""
        return self._source.identity(name)

    def prefetch(self, name: str, start: int, nbytes: int) -> None:
        """Ask the system to read ahead what is not kept."""
        if self._bytes.get(name) is None:
            self._source.prefetch(name, start, nbytes)
