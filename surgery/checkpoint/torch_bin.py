"""Reads torch's pickles without executing them: `pytorch_model.bin`, its shards, a `.bin`, `.pt`, `.pth`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.checkpoint.files import LocalFile
from surgery.checkpoint.folder import Found, Naming, check_index, find_files
from surgery.checkpoint.sidecars import read_config, sidecars_in
from surgery.checkpoint.torch_legacy import LegacyPickle
from surgery.checkpoint.torch_zip import ZIP_MAGIC, TorchZip
from surgery.errors import CheckpointError

TORCH: Final = Naming("pytorch_model", ".bin", "[!.]*_model*.bin")
_PICKLE_MAGIC: Final = b"\x80"


class TorchCheckpoint(Checkpoint):
    """An opened pickled checkpoint: one or more files, each read as its own format asks."""

    def __init__(self, path: Path) -> None:
        """Open the file or folder at `path`.

        Raises CheckpointError for files that are damaged, hostile or wrapped.
        """
        found = Found((path,)) if path.is_file() else find_files(path, TORCH)
        if not found.files:
            raise CheckpointError(f"{path}: has no pytorch_model.bin")
        parts = [_open_file(file) for file in found.files]
        names = [{**part.tensors, **part.aliases} for part in parts]
        check_index(found, {file.name: listed for file, listed in zip(found.files, names, strict=True)})
        folder = found.files[0].parent
        self.location = str(path)
        self.config = read_config(folder)
        self.sidecars = sidecars_in(folder)
        self.tensors = {name: spec for part in parts for name, spec in part.tensors.items()}
        self.aliases = {name: target for part in parts for name, target in part.aliases.items()}
        self._parts = parts
        self._home = {name: part for part in parts for name in part.tensors}

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on."""
        self._home[name].read_into(name, start, buffer)

    def prefetch(self, name: str, start: int, nbytes: int) -> None:
        """Ask the system to read a stretch ahead."""
        self._home[name].prefetch(name, start, nbytes)

    def extent(self, name: str) -> Extent | None:
        """Return the stretch of a file that holds the tensor; None for views that are not contiguous."""
        return self._home[name].extent(name)

    def identity(self, name: str) -> bytes:
        """Return a digest of the tensor's file and its place there."""
        return self._home[name].identity(name)

    def whole_file_bytes(self) -> int:
        """Return the bytes of all files that can only be loaded whole; they stay loaded until `close`."""
        return sum(part.whole_file_bytes() for part in self._parts)

    def close(self) -> None:
        """Close the files."""
        for part in self._parts:
            part.close()


def _open_file(path: Path) -> Checkpoint:
    file = LocalFile(path)
    try:
        start = file.first_bytes(len(ZIP_MAGIC))
    finally:
        file.close()
    if start == ZIP_MAGIC:
        return TorchZip(path)
    if start.startswith(_PICKLE_MAGIC):
        return LegacyPickle(path)
    raise CheckpointError(f"{path}: is neither a zip archive nor a pickle; it is damaged or not a torch file")
