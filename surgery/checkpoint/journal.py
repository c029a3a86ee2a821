"""What is already safely on disk: an append-only file of JSON lines in the partial folder, one line a tensor.

    {"surgery_journal": 1}
    ["model.norm.weight", "<digest of its job>", "<hash of its bytes>", 8192, 16777216]
    ["model.layers.0.mlp.up_proj.weight", "...", "...", 8192, 16777216, [["<step>", "<tensor>", {"rank": 8}]]]

What ops noted about a tensor, if they did, stands last: a run that goes on has the numbers of what was finished before.
A line is appended only after the tensor's bytes were synced, and is synced itself before `append` returns.
A kill can tear the last line: it then counts as not written.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from surgery.checkpoint.hashing import PIECE
from surgery.checkpoint.syncing import sync_data, sync_folder
from surgery.errors import CheckpointError, ResourceError
from surgery.notes import Noted

VERSION: Final = 1
_HEADER: Final = (json.dumps({"surgery_journal": VERSION}) + "\n").encode()


class Entry(NamedTuple):
    """A tensor whose bytes are on disk: the digest of the job that made it, their hash and number.

    `piece` is the size of the pieces that the hash was computed from; `notes` is what ops noted on the way.
    """

    name: str
    digest: str
    xxh3: str
    nbytes: int
    piece: int = PIECE
    notes: tuple[Noted, ...] = ()


class Journal:
    """One process's journal. `append` may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def __del__(self) -> None:
        self.close()

    def load(self) -> list[Entry]:
        """Return what the journal says; nothing without one. Of two lines on a tensor the later holds.

        Raises CheckpointError for a journal of another version and for damage anywhere but at the end.
        """
        return list(self._parse()[0].values())

    def append(self, entries: Iterable[Entry]) -> None:
        """Write entries and return when they are on disk. Raises ResourceError if they cannot be."""
        lines = b"".join(
            (json.dumps(entry if entry.notes else entry[:-1]) + "\n").encode() for entry in entries
        )
        with self._lock:
            try:
                if self._descriptor is None:
                    self._descriptor = self._open()
                _write(self._descriptor, lines)
            except OSError as error:
                raise ResourceError(
                    f"{self.path}: cannot be written: {error.strerror}; free some space, then run again:"
                    " what is finished is kept"
                ) from error

    def close(self) -> None:
        """Close the file; `append` opens it again."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _open(self) -> int:
        """Open for appending; a torn last line is cut off, a new journal gets its header."""
        _, whole = self._parse()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            os.ftruncate(descriptor, whole)
            if not whole:
                _write(descriptor, _HEADER)
                sync_folder(self.path.parent)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _parse(self) -> tuple[dict[str, Entry], int]:
        """Return the entries and the length of the journal up to its last whole line."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}, 0
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be read: {error.strerror}; run with --no-resume"
            ) from error
        lines = data.splitlines(keepends=True)
        done: dict[str, Entry] = {}
        whole = 0
        for number, line in enumerate(lines, start=1):
            value = _value(line)
            if value is None and number == len(lines):
                break
            if number == 1:
                self._check_version(value)
            else:
                entry = self._entry(number, value)
                done[entry.name] = entry
            whole += len(line)
        return done, whole

    def _check_version(self, value: Any) -> None:
        if value != {"surgery_journal": VERSION}:
            raise CheckpointError(
                f"{self.path}:1: is not a journal of version {VERSION}, got `{json.dumps(value)[:80]}`;"
                " finish with the version that began, or run with --no-resume"
            )

    def _entry(self, number: int, value: Any) -> Entry:
        if isinstance(value, list) and [type(part) for part in value[:5]] == [str, str, str, int, int]:
            notes = _notes(value[5:])
            if notes is not None:
                name, digest, xxh3, nbytes, piece = value[:5]
                return Entry(name, digest, xxh3, nbytes, piece, notes)
        raise CheckpointError(f"{self.path}:{number}: is damaged; run with --no-resume")


def _value(line: bytes) -> Any:
    """Return what a whole line says; None for one that is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def _notes(rest: list[Any]) -> tuple[Noted, ...] | None:
    """Return what stands behind an entry's own parts; None if these are no notes."""
    if not rest:
        return ()
    if len(rest) > 1 or not isinstance(rest[0], list):
        return None
    whole = all(isinstance(one, list) and [type(part) for part in one] == [str, str, dict] for one in rest[0])
    return tuple(Noted(*one) for one in rest[0]) if whole else None


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    sync_data(descriptor)
