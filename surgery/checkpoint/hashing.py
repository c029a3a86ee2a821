"""The hash of a tensor's bytes, computed from pieces that may come in any order.

    digest(piece i) = xxh3_128 of bytes [i * 16 MiB, (i+1) * 16 MiB), 16 bytes, big-endian as xxhash writes it
    hash(tensor)    = xxh3_128 of digest(0) digest(1) ... digest(n-1)

A tensor without bytes has no pieces; its hash is xxh3_128 of nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from xxhash import xxh3_128_digest, xxh3_128_hexdigest

# Changing it changes every hash: journals and reports state it.
PIECE: Final = 16 << 20


class PieceHasher:
    """Hashes a tensor of `nbytes` bytes piece by piece. Thread-safe: pieces are independent."""

    def __init__(self, nbytes: int, piece: int = PIECE) -> None:
        self.nbytes = nbytes
        self.piece = piece
        self._digests: list[bytes] = [b""] * -(-nbytes // piece)

    def size_of(self, index: int) -> int:
        """Return the bytes of piece `index`; only the last may be shorter than the others."""
        if not 0 <= index < len(self._digests):
            raise IndexError(f"piece {index} of {len(self._digests)}")
        return min(self.piece, self.nbytes - index * self.piece)

    def add(self, index: int, data: memoryview) -> None:
        """Hash piece `index`. Raises ValueError unless `data` is all of it."""
        if data.nbytes != self.size_of(index):
            raise ValueError(f"piece {index} has {self.size_of(index)} bytes, got {data.nbytes}")
        self._digests[index] = xxh3_128_digest(data)

    @property
    def complete(self) -> bool:
        """Return whether every piece was added."""
        return all(self._digests)

    def hexdigest(self) -> str:
        """Return the tensor's hash, 32 hexadecimal digits. Raises ValueError while pieces are missing."""
        if not self.complete:
            raise ValueError(f"{self._digests.count(b'')} of {len(self._digests)} pieces are missing")
        return xxh3_128_hexdigest(b"".join(self._digests))


def hash_stretch(read: Callable[[int, memoryview], None], nbytes: int, piece: int = PIECE) -> str:
    """Return the hash of `nbytes` bytes that `read(start, buffer)` fills in; takes one piece of memory."""
    hasher = PieceHasher(nbytes, piece)
    buffer = memoryview(bytearray(min(nbytes, piece)))
    for index, start in enumerate(range(0, nbytes, piece)):
        part = buffer[: hasher.size_of(index)]
        read(start, part)
        hasher.add(index, part)
    return hasher.hexdigest()
