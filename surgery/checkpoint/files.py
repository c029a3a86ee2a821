"""One local file that is read at offsets: opened on first use, and only if it is the one expected."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path
from typing import Any, Final, NamedTuple

from xxhash import xxh3_128_digest

from surgery.errors import CheckpointError

_GIT_LFS: Final = b"version https://git-lfs"


class Stamp(NamedTuple):
    """What the file system says about a file; a file with another stamp may have other bytes.

    The inode keeps two fine-tunes apart whose files agree in name, size, header and time, as files from
    archives with normalised times do. The device is left out: hosts that share a file system number it
    differently.
    """

    size: int
    mtime_ns: int
    inode: int


class LocalFile:
    """A regular file that any number of threads read at offsets."""

    def __init__(self, path: Path, expected: Stamp | None = None) -> None:
        self.path = path
        self._expected = expected
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._closed = False

    def __del__(self) -> None:
        self.close()

    def stamp(self) -> Stamp:
        """Return the file's stamp; opens it."""
        return _stamp(os.fstat(self._open()))

    def read_into(self, offset: int, buffer: memoryview, what: str) -> None:
        """Fill `buffer` from byte `offset` on.

        Raises CheckpointError naming `what` if the file ends before.
        """
        size = buffer.nbytes
        if not size:
            return
        descriptor = self._descriptor if self._descriptor is not None else self._open()
        try:
            count = os.preadv(descriptor, (buffer,), offset)
            if count == size:  # nearly always: this runs for every piece of every input
                return
            rest, offset = buffer.cast("B")[count:], offset + count
            while count and rest and (count := os.preadv(descriptor, (rest,), offset)):
                rest, offset = rest[count:], offset + count
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: {what} cannot be read at byte {offset}: {error.strerror}"
            ) from error
        if rest:
            raise CheckpointError(
                f"{self.path}: {what} is cut off: the file ends at byte {offset},"
                f" {rest.nbytes} bytes are missing; fetch the file again"
            )

    def first_bytes(self, count: int) -> bytes:
        """Return the first `count` bytes, fewer of a shorter file.

        Refuses what Git LFS left in place of a file.
        """
        start = bytearray(min(self.stamp().size, max(count, len(_GIT_LFS))))
        self.read_into(0, memoryview(start), "the file")
        if start.startswith(_GIT_LFS):
            raise CheckpointError(f"{self.path}: is a Git LFS pointer, not the weights; run `git lfs pull`")
        return bytes(start[:count])

    def prefetch(self, offset: int, nbytes: int) -> None:
        """Ask the system to read a stretch ahead, where it can be asked."""
        if hasattr(os, "posix_fadvise") and nbytes > 0:
            with contextlib.suppress(OSError, CheckpointError):
                os.posix_fadvise(self._open(), offset, nbytes, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the file; reading it afterwards is an error."""
        with self._lock:
            self._closed = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _open(self) -> int:
        with self._lock:
            if self._closed:
                raise ValueError(f"{self.path}: read after close")
            if self._descriptor is None:
                self._descriptor = _open_regular(self.path, self._expected)
            return self._descriptor


def _open_regular(path: Path, expected: Stamp | None) -> int:
    try:
        # a pipe or a device would block or never end: look before opening
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path}: is not a regular file; name a weight file or a folder of them")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened: {error.strerror}") from error
    if expected is not None and _stamp(os.fstat(descriptor)) != expected:
        os.close(descriptor)
        raise CheckpointError(
            f"{path}: was changed after its header was read; run again when nothing writes to it"
        )
    return descriptor


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


def fingerprint(path: Path, stamp: Stamp, header: bytes, *where: Any) -> bytes:
    """Return a digest of a tensor's place: file's name and stamp, header's digest, `where` in it."""
    return xxh3_128_digest(repr((path.name, *stamp, header, *where)).encode())
