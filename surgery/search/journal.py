"""All candidates of a search, in an append-only file of JSON lines.

    {"surgery_search": 2, "search": "<digest of recipe and models>"}
    {"number": 0, "kind": "baseline", "name": "base", "id": "...", "score": 1.43, ...}

A line is on the disk before the next candidate is begun. A kill can tear the last line: it then counts as not written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from surgery.checkpoint.syncing import sync_data, sync_folder
from surgery.errors import ResourceError
from surgery.search.trial import Trial

VERSION: Final = 2


class SearchJournal:
    """The journal of one search; `search` tells searches apart."""

    def __init__(self, path: Path, search: str) -> None:
        self.path = path
        self._header = {"surgery_search": VERSION, "search": search}
        self._descriptor: int | None = None

    def load(self) -> list[Trial]:
        """Return the candidates so far, and cut off a torn last line.

        Raises ResourceError for the journal of another search, and for damage anywhere but at the end.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise ResourceError(
                f"{self.path}: cannot be read: {error.strerror}; search into another folder"
            ) from error
        lines = data.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            os.truncate(self.path, len(data) - len(lines.pop()))
        if lines and _parsed(lines[0]) != self._header:
            raise ResourceError(
                f"{self.path}: is the journal of another search: recipe, models or settings have changed; "
                "search into another folder"
            )
        return [self._trial(number, line) for number, line in enumerate(lines[1:], start=2)]

    def append(self, trial: Trial) -> None:
        """Write a candidate and return when it is on the disk. Raises ResourceError if it cannot be."""
        try:
            if self._descriptor is None:
                self._open()
            self._write(trial.record())
        except OSError as error:
            raise ResourceError(
                f"{self.path}: cannot be written: {error.strerror}; free some space"
            ) from error

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o644)
        if os.fstat(self._descriptor).st_size == 0:
            self._write(self._header)
            sync_folder(self.path.parent)

    def _write(self, record: dict[str, Any]) -> None:
        assert self._descriptor is not None
        rest = memoryview((json.dumps(record, allow_nan=False) + "\n").encode())
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        sync_data(self._descriptor)

    def _trial(self, number: int, line: bytes) -> Trial:
        try:
            return Trial.of(_parsed(line))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ResourceError(f"{self.path}:{number}: is damaged; search into another folder") from None


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
