"""Small text files that commands write."""

from __future__ import annotations

from pathlib import Path

from surgery.errors import ResourceError


def write_new(path: Path, text: str, *, force: bool) -> None:
    """Write a text file. Raises ResourceError if it exists (unless `force`) or cannot be written."""
    try:
        with path.open("w" if force else "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise ResourceError(f"{path}: exists; choose another name or pass --force") from None
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written: {error.strerror}; choose another place") from error
