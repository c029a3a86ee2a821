"""Writes safetensors shards in place: files at full size, then tensors at final offsets in any order."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from surgery.checkpoint.base_writer import Writer
from surgery.checkpoint.layout import Shard, ShardLayout
from surgery.checkpoint.syncing import sync_data, sync_folder
from surgery.errors import CheckpointError, ResourceError
from surgery.tensors import human_bytes

_UNSUPPORTED: Final = frozenset((errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS))
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
_ADVICE: Final = {
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "raise the quota or write elsewhere",
    errno.EFBIG: "the file system takes no file of this size: lower output.shard_size",
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST), "write elsewhere"),
}


class SafetensorsWriter(Writer):
    """Writes the shards of a layout into a folder. A killed process loses nothing that was written."""

    def __init__(self, folder: Path, layout: ShardLayout) -> None:
        self.layout = layout
        self._folder = folder
        self._descriptors: dict[str, int] = {}

    def __del__(self) -> None:
        self.close()

    def create(self, files: Iterable[str] | None = None) -> frozenset[str]:
        """Make the files at full size with their headers, or re-open those that an earlier run made.

        A file appears under its name only when it is complete but for the weights. One that is there with
        another size or header, left by a run with another layout, is replaced. Raises ResourceError if not
        all fit on the disk.
        """
        with _resource(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        chosen = self.chosen(files)
        kept = frozenset(shard.file for shard in chosen if self._reopen(shard))
        new = [shard for shard in chosen if shard.file not in kept]
        needed = sum(shard.size for shard in new)
        available = self._available()
        try:
            for shard in new:
                self._make(shard, needed, available)
        except ResourceError:
            self._discard(new)
            raise
        with _resource(self._folder):
            sync_folder(self._folder)
        return kept

    def _discard(self, shards: Iterable[Shard]) -> None:
        """Remove files that hold no tensor yet: they would only fill the disk."""
        for shard in shards:
            if shard.file in self._descriptors:
                os.close(self._descriptors.pop(shard.file))
                (self._folder / shard.file).unlink(missing_ok=True)

    def _available(self) -> int:
        with _resource(self._folder):
            status = os.statvfs(self._folder)
        return status.f_bavail * status.f_frsize

    def _reopen(self, shard: Shard) -> bool:
        """Open a file that an earlier run made; return whether it is there with the right size and header."""
        if shard.file in self._descriptors:
            return True
        path = self._folder / shard.file
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _resource_error(path, error) from error
        with _resource(path):
            same = os.fstat(descriptor).st_size == shard.size
            same = same and os.pread(descriptor, len(shard.header), 0) == shard.header
        if same:
            self._descriptors[shard.file] = descriptor
        else:
            os.close(descriptor)
            path.unlink()
        return same

    def _make(self, shard: Shard, needed: int, available: int) -> None:
        path = self._folder / shard.file
        unfinished = path.with_name(f"{shard.file}.new")
        with _resource(unfinished, needed, available):
            descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            try:
                _allocate(descriptor, shard.size, needed, available)
                _write_all(descriptor, memoryview(shard.header), 0)
                os.fsync(descriptor)
                unfinished.rename(path)
            except OSError:
                os.close(descriptor)
                unfinished.unlink(missing_ok=True)
                raise
        self._descriptors[shard.file] = descriptor

    def write_at(self, name: str, start: int, data: memoryview) -> None:
        """Write bytes of a tensor, from its byte `start` on, at their final offset."""
        place = self.place(name, start, data.nbytes)
        if data.nbytes:
            try:  # not `_resource`: a path is only needed when something is wrong, and this runs for every chunk
                _write_all(self._descriptor(place.file), data.cast("B"), place.offset + start)
            except OSError as error:
                raise _resource_error(self._folder / place.file, error) from error

    def flush_soon(self, name: str, start: int, nbytes: int) -> None:
        """Ask the system to begin writing a stretch to the device; returns at once, promises nothing.

        Advice that the pages are not needed starts write-back on Linux; only clean pages are dropped by it.
        """
        place = self.layout.places[name]
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                descriptor = self._descriptor(place.file)
                os.posix_fadvise(descriptor, place.offset + start, nbytes, os.POSIX_FADV_DONTNEED)

    def read_back(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes in the file from the tensor's byte `start` on."""
        place = self.place(name, start, buffer.nbytes)
        if not buffer.nbytes:
            return
        rest, offset = buffer.cast("B"), place.offset + start
        with _resource(self._folder / place.file):
            while rest and (count := os.preadv(self._descriptor(place.file), [rest], offset)):
                rest, offset = rest[count:], offset + count
        if rest:
            raise CheckpointError(
                f"{self._folder / place.file}: tensor `{name}`: the file ends at byte {offset};"
                " run with --no-resume"
            )

    def sync(self, names: Iterable[str] | None = None) -> None:
        """Sync the files that hold these tensors; all files for None."""
        files = self._descriptors if names is None else {self.layout.places[name].file for name in names}
        for file in sorted(files):
            with _resource(self._folder / file):
                sync_data(self._descriptor(file))

    def finish(self) -> None:
        """Write the index, if there is more than one shard, and sync files and folder."""
        self.sync()
        if self.layout.index_json is not None:
            path = self._folder / self.layout.index_file
            with _resource(path), open(path, "wb") as index:
                index.write(self.layout.index_json)
                index.flush()
                os.fsync(index.fileno())
        with _resource(self._folder):
            sync_folder(self._folder)

    def close(self) -> None:
        """Close the files. Those that were deleted give back their blocks by that, which nobody has to wait for."""
        descriptors, self._descriptors = self._descriptors, {}
        deleted = [one for one in descriptors.values() if not os.fstat(one).st_nlink]
        _close(set(descriptors.values()).difference(deleted))
        if deleted:
            # a second for a gigabyte where the file system tells its device; the interpreter's end waits for the thread
            thread = threading.Thread(target=_close, args=(deleted,), name="freeing")
            try:
                thread.start()
            except RuntimeError:  # that end has come: none can be started
                _close(deleted)

    def _descriptor(self, file: str) -> int:
        if file not in self._descriptors:
            raise ValueError(f"{self._folder / file}: is not open for writing")
        return self._descriptors[file]


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _allocate(descriptor: int, size: int, needed: int, available: int) -> None:
    """Reserve the file's blocks; where a file system cannot, at least compare sizes."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _UNSUPPORTED:
            raise
        if needed > available:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        os.ftruncate(descriptor, size)


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


@contextlib.contextmanager
def _resource(path: Path, needed: int | None = None, available: int = 0) -> Iterator[None]:
    """Turn what the system says about writing `path` into a ResourceError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and needed is not None:
            raise ResourceError(
                f"{path.parent}: the disk is too small: the output needs {human_bytes(needed)},"
                f" {human_bytes(available)} are available; {_ADVICE[error.errno or 0]}"
            ) from error
        raise _resource_error(path, error) from error


def _resource_error(path: Path, error: OSError) -> ResourceError:
    advice = _ADVICE.get(error.errno or 0, "check the disk, then run again: what is finished is kept")
    return ResourceError(f"{path}: cannot be written: {error.strerror}; {advice}")
