"""All candidates of a search, in an append-only file of JSON lines.

    {"surgery_search": 3, "search": "<digest of recipe, models, texts>", "goal": "minimize", "space": "2 numbers", ...}
    {"number": 0, "kind": "baseline", "name": "base", "id": "...", "score": 1.43, ...}

A line is on the disk before the next candidate is begun. A kill can tear the last line: it then counts as not written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from surgery.checkpoint.syncing import sync_data, sync_folder
from surgery.errors import ResourceError
from surgery.search.history import About, History
from surgery.search.trial import Trial

VERSION: Final = 3


class SearchJournal:
    """The journal of one search; `search` tells searches apart, `about` is for those who read it."""

    def __init__(self, path: Path, search: str, about: About) -> None:
        self.path = path
        self._header = {"surgery_search": VERSION, "search": search, **about.record()}
        self._descriptor: int | None = None

    def load(self) -> list[Trial]:
        """Return the candidates so far, and cut off a torn last line.

        Raises ResourceError for the journal of another search, and for damage anywhere but at the end.
        """
        lines, torn = _lines(self.path)
        if torn:
            os.truncate(self.path, sum(map(len, lines)))
        if lines and _parsed(lines[0]) != self._header:
            raise ResourceError(
                f"{self.path}: is the journal of another search: recipe, models, settings or files that the "
                "evaluator reads have changed; search into another folder"
            )
        return _trials(self.path, lines)

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


def read_history(path: Path) -> History:
    """Return what a journal holds so far, and change nothing: the search may be going on.

    Raises ResourceError for a journal that is damaged, or of another release.
    """
    lines, _ = _lines(path)
    header = _parsed(lines[0]) if lines else None
    if not isinstance(header, dict) or header.get("surgery_search") != VERSION:
        raise ResourceError(f"{path}: is not the journal of a search of this release")
    try:
        about = About.of(header)
    except (KeyError, TypeError):
        raise ResourceError(f"{path}:1: is damaged; search into another folder") from None
    return History(about, tuple(_trials(path, lines)))


def _lines(path: Path) -> tuple[list[bytes], bool]:
    """Return a journal's whole lines, and whether the last one after them is torn."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be read: {error.strerror}; search into another folder"
        ) from error
    torn = bool(lines) and not lines[-1].endswith(b"\n")
    return (lines[:-1] if torn else lines), torn


def _trials(path: Path, lines: Sequence[bytes]) -> list[Trial]:
    return [_trial(path, number, line) for number, line in enumerate(lines[1:], start=2)]


def _trial(path: Path, number: int, line: bytes) -> Trial:
    try:
        return Trial.of(_parsed(line))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ResourceError(f"{path}:{number}: is damaged; search into another folder") from None


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
