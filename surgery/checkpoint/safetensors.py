"""Reads safetensors: a file, or a folder with one file, an index and its shards, or files as a union."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.checkpoint.files import LocalFile, fingerprint
from surgery.checkpoint.folder import Found, Naming, check_index, find_files
from surgery.checkpoint.header import Header, Stored, read_header
from surgery.checkpoint.sidecars import read_config, sidecars_in
from surgery.errors import CheckpointError

SAFETENSORS: Final = Naming("model", ".safetensors", "[!.]*.safetensors")


class SafetensorsCheckpoint(Checkpoint):
    """An opened safetensors checkpoint. Opening reads headers; a tensor's bytes are read where they lie."""

    def __init__(self, path: Path) -> None:
        """Open the file or folder at `path`.

        Raises CheckpointError for whatever `read_header` refuses and for an index that its shards contradict.
        """
        found = Found((path,)) if path.is_file() else find_files(path, SAFETENSORS)
        if not found.files:
            raise CheckpointError(f"{path}: has no .safetensors file")
        folder = found.files[0].parent
        headers = [read_header(file) for file in found.files]
        check_index(found, {header.path.name: header.tensors.keys() for header in headers})
        self.location = str(path)
        self.config = read_config(folder)
        self.sidecars = sidecars_in(folder)
        self.aliases = {}
        self.metadata = {header.path.name: header.metadata for header in headers}
        self._stored: dict[str, tuple[Stored, Header, LocalFile]] = {}
        self._files = [LocalFile(header.path, header.stamp) for header in headers]
        for header, file in zip(headers, self._files, strict=True):
            self._stored.update((name, (stored, header, file)) for name, stored in header.tensors.items())
        self.tensors = {name: stored.spec for name, (stored, _, _) in self._stored.items()}

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on."""
        self.reader(name)(start, buffer)

    def reader(self, name: str) -> Callable[[int, memoryview], None]:
        """Return `read_into` of one tensor."""
        (_, begin, end), _, file = self._stored[name]
        what, read_file = f"tensor `{name}`", file.read_into

        def read(start: int, buffer: memoryview) -> None:
            if start < 0 or begin + start + buffer.nbytes > end:
                raise ValueError(f"{name}: bytes {start} to {start + buffer.nbytes} of {end - begin}")
            read_file(begin + start, buffer, what)

        return read

    def prefetch(self, name: str, start: int, nbytes: int) -> None:
        """Ask the system to read a stretch ahead."""
        (_, begin, end), _, file = self._stored[name]
        file.prefetch(begin + start, min(nbytes, end - begin - start))

    def extent(self, name: str) -> Extent:
        """Return the stretch of the file that holds the tensor."""
        (_, begin, end), header, _ = self._stored[name]
        return Extent(str(header.path), begin, end - begin)

    def identity(self, name: str) -> bytes:
        """Return a digest of file name, stamp, header, and the tensor's name and place."""
        (_, begin, end), header, _ = self._stored[name]
        return fingerprint(header.path, header.stamp, header.digest, name, begin, end)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
