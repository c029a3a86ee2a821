"""Reads one `.bin` from before torch 1.6: pickles without a zip around them, taken apart by torch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.files import LocalFile, Stamp, fingerprint
from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.checkpoint.state_dict import flat_state_dict, unsafe
from surgery.checkpoint.unpickler import globals_in
from surgery.errors import CheckpointError


class LegacyPickle(Checkpoint):
    """One file of torch.save's old format. It is not read in parts: the first read loads it, until `close`.

    Opening loads it too, for the names and shapes, and forgets it again.
    """

    config: Mapping[str, object] = {}
    sidecars: Mapping[str, Path] = {}

    def __init__(self, path: Path) -> None:
        """Load the file.

        Raises CheckpointError if it names anything but tensors or is not a flat dict of them.
        """
        self.location = str(path)
        self._path = path
        self._stamp = _stamp(path)
        self._lock = threading.Lock()
        self._closed = False
        self._loaded: MemoryCheckpoint | None = None
        loaded = _load(path)
        self.tensors, self.aliases = loaded.tensors, loaded.aliases

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on."""
        with self._lock:
            if self._closed:
                raise ValueError(f"{self._path}: read after close")
            if self._loaded is None:
                if _stamp(self._path) != self._stamp:
                    raise CheckpointError(f"{self._path}: was changed after it was opened; run again")
                self._loaded = _load(self._path)
            loaded = self._loaded
        loaded.read_into(name, start, buffer)

    def extent(self, name: str) -> None:
        """Return None: the bytes are in memory."""

    def identity(self, name: str) -> bytes:
        """Return a digest of file name, stamp, and the tensor's name."""
        return fingerprint(self._path, self._stamp, b"", name)

    def whole_file_bytes(self) -> int:
        """Return the file's size: reading any tensor loads all."""
        return self._stamp.size

    def close(self) -> None:
        """Forget what was loaded."""
        with self._lock:
            self._closed, self._loaded = True, None


def _stamp(path: Path) -> Stamp:
    file = LocalFile(path)
    try:
        return file.stamp()
    finally:
        file.close()


def _load(path: Path) -> MemoryCheckpoint:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise anything
        with path.open("rb") as file:
            names = globals_in(file, pickles=4)  # magic number, protocol, system, state dict
        if names:
            raise CheckpointError(unsafe(str(path), names)) from None
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{path}: cannot be loaded: {reason}; the file is damaged or not a state dict"
        ) from error
    return MemoryCheckpoint(flat_state_dict(state, str(path), torch.Tensor), location=str(path))
