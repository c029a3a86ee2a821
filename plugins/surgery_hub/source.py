"""A model on the Hub: opened by reading config.json, the index and the headers; weights come when they are read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from xxhash import xxh3_128_digest

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.checkpoint.files import Stamp
from surgery.checkpoint.folder import Found, check_index
from surgery.checkpoint.header import Header, header_length, parse_header, read_header
from surgery.checkpoint.origin import Origin
from surgery.checkpoint.sidecars import CONFIG, is_sidecar, read_config
from surgery_hub.fetcher import Fetcher, Stretch, by_stretch
from surgery_hub.listing import Listing
from surgery_hub.ranges import read_range

# What is asked for first of each file: most headers are no longer, and less than a large file's thousandth.
FIRST: Final = 32 << 10
AT_ONCE: Final = 8


class Sidecars(Mapping[str, Path]):
    """The small files beside the weights, name -> path in the cache; each is fetched when it is asked for."""

    def __init__(self, listing: Listing, folder: str, names: Collection[str]) -> None:
        self._listing, self._folder = listing, folder
        self._names = sorted(name for name in names if is_sidecar(name))

    def __getitem__(self, name: str) -> Path:
        if name not in self._names:
            raise KeyError(name)
        return self._listing.download(self._folder + name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class HubCheckpoint(Checkpoint):
    """A safetensors checkpoint on the Hub, pinned to the commit that its revision was when it was opened."""

    def __init__(self, listing: Listing, folder: str, names: Collection[str], found: Found) -> None:
        """Read the headers of the files in `found`; `folder` ("" or with a `/` behind it) holds files `names`."""
        self.location = str(listing.named)
        self._listing = listing
        files = [folder + file.name for file in found.files]
        headers = read_headers(listing, files)
        check_index(found, {header.path.name: header.tensors.keys() for header in headers})
        self.config = read_config(listing.download(folder + CONFIG).parent) if CONFIG in names else {}
        self.sidecars = Sidecars(listing, folder, names)
        self.aliases = {}
        self._stretches: dict[str, Stretch] = {}
        for path, header in zip(files, headers, strict=True):
            self._stretches.update(
                (name, Stretch(path, begin, end)) for name, (_, begin, end) in header.tensors.items()
            )
        self.tensors = {name: stored.spec for header in headers for name, stored in header.tensors.items()}
        self._fetcher = Fetcher(listing)
        self.origin = Origin(
            listing.named.repo,
            listing.sha,
            {os.path.basename(path): _known_by(listing, path) for path in files},
        )

    def expect(self, names: Collection[str]) -> None:
        """Begin to fetch what a run will read."""
        self._fetcher.expect(by_stretch(self._stretches, list(names)))

    def doing(self) -> str:
        """Return how much has come of what is on its way."""
        return self._fetcher.doing()

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on, as soon as they are here."""
        stretch = self._stretches[name]
        nbytes = stretch.end - stretch.begin
        if start < 0 or start + buffer.nbytes > nbytes:
            raise ValueError(f"{name}: bytes {start} to {start + buffer.nbytes} of {nbytes}")
        self._fetcher.read_into(stretch, start, buffer, f"tensor `{name}`")

    def prefetch(self, name: str, start: int, nbytes: int) -> None:
        """Ask the system to read a stretch ahead, of a file that is here."""
        stretch = self._stretches[name]
        self._fetcher.prefetch(stretch, start, min(nbytes, stretch.end - stretch.begin - start))

    def extent(self, name: str) -> Extent | None:
        """Return the stretch of the file in the cache; None while that is not there."""
        path, begin, end = self._stretches[name]
        cached = self._listing.cached(path)
        return None if cached is None else Extent(str(cached), begin, end - begin)

    def identity(self, name: str) -> bytes:
        """Return a digest of the file's etag, which is its content's hash, and of the tensor's name and place.

        The commit is left out: when it changes but the weights do not, what was computed from them still holds.
        """
        path, begin, end = self._stretches[name]
        return xxh3_128_digest(repr((self._listing.files[path].etag, name, begin, end)).encode())

    def close(self) -> None:
        """Stop what is being fetched."""
        self._fetcher.close()


def read_headers(listing: Listing, files: list[str]) -> list[Header]:
    """Return the headers of files, read where they lie: in the cache, or on the Hub by one or two ranges."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="headers") as pool:
        return list(pool.map(lambda path: _header(listing, path), files))


def _header(listing: Listing, path: str) -> Header:
    cached = listing.cached(path)
    if cached is not None:
        return read_header(cached)
    name, size, url = f"{listing.named.repo}/{path}", listing.files[path].size, listing.url(path)
    start = read_range(url, 0, min(size, FIRST), name) if size else b""
    length = header_length(Path(name), start, size)
    if 8 + length > len(start):
        start += read_range(url, len(start), 8 + length, name)
    return parse_header(Path(name), start[8 : 8 + length], Stamp(size, 0, 0))


def _known_by(listing: Listing, path: str) -> dict[str, object]:
    file = listing.files[path]
    hashed = {"sha256": file.etag} if len(file.etag) == 64 else {"etag": file.etag}
    return {"bytes": file.size, **hashed}
