"""tokenizer.json read as JSON: which token has which id. No tokenizer is built, nothing of it is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from surgery.errors import CheckpointError
from surgery.ops import File

TOKENIZER: Final = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a tokenizer: token -> id, and the settings of those that were added to its own by token.

    `byte_level` says whether its own tokens are written in GPT-2's letters for bytes.
    """

    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]
    byte_level: bool = False


def read_tokenizer(file: File) -> dict[str, Any]:
    """Return a parsed tokenizer.json. Raises CheckpointError when it is none."""
    try:
        document = json.loads(file if isinstance(file, bytes) else file.read_bytes())
        if not isinstance(document["model"], dict):
            raise TypeError("`model` is no object")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _none(file, error) from error
    except OSError as error:
        raise CheckpointError(f"{file!r}: cannot be read: {error.strerror}") from error
    return dict(document)


def vocabulary(file: File) -> Vocabulary:
    """Return the tokens of a tokenizer.json, added tokens included. Raises CheckpointError when it is none."""
    return _vocabulary(file, stamp_of(file))


def stamp_of(file: File) -> tuple[int, ...]:
    """Return what tells a file from one that lay at its place before: what is kept of a file must not outlive it."""
    try:
        status = None if isinstance(file, bytes) else file.stat()
    except OSError:  # told in words where it is read
        status = None
    return () if status is None else (status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=16)
def _vocabulary(file: File, stamp: tuple[int, ...]) -> Vocabulary:
    document = read_tokenizer(file)
    try:
        listed = document["model"].get("vocab", {})
        ids = dict(listed) if isinstance(listed, dict) else {entry[0]: i for i, entry in enumerate(listed)}
        added = {token["content"]: token for token in document.get("added_tokens") or []}
        ids |= {content: token["id"] for content, token in added.items()}
        if any(not isinstance(i, int) or i < 0 for i in ids.values()):
            raise ValueError("an id is no whole number")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _none(file, error) from error
    cut = json.dumps([document.get("pre_tokenizer"), document.get("decoder")])
    return Vocabulary(ids, added, '"ByteLevel"' in cut)


def _none(file: File, error: Exception) -> CheckpointError:
    name = file if isinstance(file, Path) else TOKENIZER
    return CheckpointError(f"{name}: not a tokenizer: {error}; mend or remove the file")
