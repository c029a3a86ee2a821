"""Brings a repository's weights here while they are needed: whole files into the Hub's cache, or single tensors.

Whole files are what everyone else on this machine can use too, and what a second run finds. When a run needs less
than a quarter of a file (a few layers for a stitch), only its tensors are asked for, by range, and are gone when the
run ends. Files and tensors begin to come when the run says what it will read, four at a time, in that order.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from surgery.checkpoint.files import LocalFile
from surgery.errors import CheckpointError, ResourceError
from surgery.tensors import human_bytes
from surgery_hub.client import cache_folder
from surgery_hub.listing import Listing, fetch
from surgery_hub.ranges import stream_range

WHOLE_SHARE: Final = 0.25  # of a file: from here on all of it is fetched
AT_ONCE: Final = 4


class Stretch(NamedTuple):
    """A tensor's bytes in a file: of byte `begin` to `end`."""

    path: str
    begin: int
    end: int


class _Stopped(Exception):
    """Nobody waits for this any more."""


class Spill:
    """Single tensors of one file: a file of the same size with holes, that has no name and ends with the process."""

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the fetcher
        os.ftruncate(self._file.fileno(), size)

    def put(self, offset: int, data: bytes) -> None:
        """Write bytes at their place."""
        rest = memoryview(data)
        while rest:
            count = os.pwrite(self._file.fileno(), rest, offset)
            rest, offset = rest[count:], offset + count

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer with bytes that were put."""
        rest = buffer.cast("B")
        while rest:
            count = os.preadv(self._file.fileno(), [rest], offset)
            rest, offset = rest[count:], offset + count

    def close(self) -> None:
        """Give the space back."""
        self._file.close()


class Fetcher:
    """Reads stretches of a listing's files, which it fetches before. Any number of threads read."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._files: dict[str, LocalFile] = {}
        self._spills: dict[str, Spill] = {}
        self._coming: dict[object, Future[Any]] = {}
        self._wanted = self._got = 0
        self._stopped = False

    def expect(self, stretches: Sequence[Stretch]) -> None:
        """Begin to fetch what will be read; views that share a reader each say what they need of it.

        What is here or on its way is left as it is. Raises ResourceError if the disk of the cache has no room.
        """
        by_file: dict[str, list[Stretch]] = {}
        for stretch in dict.fromkeys(stretches):
            if not self._is_coming(stretch) and self._listing.cached(stretch.path) is None:
                by_file.setdefault(stretch.path, []).append(stretch)
        sizes = {path: self._listing.files[path].size for path in by_file}
        needed = {path: sum(s.end - s.begin for s in found) for path, found in by_file.items()}
        ranged = {path for path in by_file if needed[path] < WHOLE_SHARE * sizes[path]}
        _check_room(sum(needed[path] if path in ranged else sizes[path] for path in by_file))
        for path, found in by_file.items():
            if path in ranged:
                if path not in self._spills:
                    self._spills[path] = Spill(cache_folder(), sizes[path])
                for stretch in found:
                    self._ask(stretch, stretch.end - stretch.begin, self._fetch_stretch, stretch)
            else:
                self._ask(path, sizes[path], self._fetch_file, path)

    def read_into(self, stretch: Stretch, start: int, buffer: memoryview, what: str) -> None:
        """Fill `buffer` from byte `start` of a stretch on, as soon as it is here."""
        if not buffer.nbytes:
            return
        spill = self._spills.get(stretch.path)
        if spill is not None and stretch in self._coming:
            self._coming[stretch].result()
            spill.read_into(stretch.begin + start, buffer)
        else:
            self._file(stretch.path).read_into(stretch.begin + start, buffer, what)

    def prefetch(self, stretch: Stretch, start: int, nbytes: int) -> None:
        """Ask the system to read ahead in a file that is here."""
        file = self._files.get(stretch.path)
        if file is not None:
            file.prefetch(stretch.begin + start, nbytes)

    def doing(self) -> str:
        """Return how much has come of what is on its way; empty when nothing is."""
        if self._got >= self._wanted:
            return ""
        repo = self._listing.named.repo
        return f"fetching {repo}: {human_bytes(self._got)} of {human_bytes(self._wanted)}"

    def close(self) -> None:
        """Stop fetching and close the files; what has come of whole files stays in the cache."""
        self._stopped = True
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        for file in self._files.values():
            file.close()
        for spill in self._spills.values():
            spill.close()

    def _is_coming(self, stretch: Stretch) -> bool:
        with self._lock:
            return stretch in self._coming or stretch.path in self._coming

    def _file(self, path: str) -> LocalFile:
        """Return a whole file, once it is here."""
        known = self._files.get(path)
        if known is not None:
            return known
        found = self._listing.cached(path)
        if found is None:
            found = self._ask(path, self._listing.files[path].size, self._fetch_file, path).result()
        size = found.stat().st_size
        if size != self._listing.files[path].size:
            raise CheckpointError(
                f"{found}: has {size} bytes, on the Hub {self._listing.files[path].size};"
                " remove it from the cache and run again"
            )
        with self._lock:
            return self._files.setdefault(path, LocalFile(found))

    def _ask(self, key: object, nbytes: int, work: Callable[..., Any], *given: Any) -> Future[Any]:
        """Return the future of something to fetch; nothing is fetched twice."""
        with self._lock:
            if key not in self._coming:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch")
                self._wanted += nbytes
                self._coming[key] = self._pool.submit(work, *given)
            return self._coming[key]

    def _fetch_file(self, path: str) -> Path:
        counted = 0

        def count(nbytes: int) -> None:
            nonlocal counted
            counted += nbytes
            self._count(nbytes)

        found = fetch(self._listing, path, count)
        self._count(self._listing.files[path].size - counted)  # what an earlier run had fetched of it
        return found

    def _fetch_stretch(self, stretch: Stretch) -> None:
        spill = self._spills[stretch.path]

        def put(offset: int, data: bytes) -> None:
            spill.put(offset, data)
            self._count(len(data))

        where = f"{self._listing.named.repo}/{stretch.path}"
        stream_range(self._listing.url(stretch.path), stretch.begin, stretch.end, where, put)

    def _count(self, nbytes: int) -> None:
        if self._stopped:
            raise _Stopped
        with self._lock:
            self._got += nbytes


def _check_room(needed: int) -> None:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(
            f"{cache_folder()}: fetching from the Hub needs {human_bytes(needed)}, {human_bytes(free)} are free;"
            " free some space or set HF_HOME to a folder on another disk"
        )


def by_stretch(stored: Mapping[str, Stretch], names: Sequence[str]) -> list[Stretch]:
    """Return the stretches of tensors, in their order."""
    return [stored[name] for name in names if stored[name].end > stored[name].begin]
