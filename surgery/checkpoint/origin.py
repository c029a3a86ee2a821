"""Where a checkpoint comes from, so that it can be found again: repository, revision, files and what tells them apart.

A file in the Hub's cache is known by the sha256 of its bytes, which names its blob. Of any other file a fingerprint is
taken: xxh3-128 of its size and of 16 stretches of 64 KiB spread over it, whole if it is no larger. That takes a moment
whatever the file's size, and does not depend on where the file lies or when it was written.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import xxhash

from surgery.checkpoint.base import Checkpoint

STRETCH: Final = 64 << 10
STRETCHES: Final = 16
_SNAPSHOT: Final = re.compile(r"models--(?P<repo>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})/")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Origin:
    """A checkpoint's repository and revision on the Hub ("" for others), and of each file size and `sha256` or
    `fingerprint`."""

    repository: str = ""
    revision: str = ""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return it as plain data, without what is not known."""
        found: dict[str, Any] = {"repository": self.repository, "revision": self.revision}
        return {key: value for key, value in found.items() if value} | {"files": dict(self.files)}


def origin_of(checkpoint: Checkpoint) -> Origin:
    """Return where a checkpoint comes from: what a reader says that has an `origin`, else what files tell.

    Of a model that is read with an adapter, or decoded, these are the files of all parts and the first repository.
    """
    origins = [_origin(part) for part in checkpoint.parts()]
    hub = next((origin for origin in origins if origin.repository), Origin())
    files: dict[str, Mapping[str, Any]] = {}
    for origin in origins:
        files |= origin.files
    return Origin(hub.repository, hub.revision, files)


def _origin(part: Checkpoint) -> Origin:
    known = getattr(part, "origin", None)
    if isinstance(known, Origin):
        return known
    files = _extents(part)
    cached = next((found for file in files if (found := _SNAPSHOT.search(file.as_posix()))), None)
    return Origin(
        repository=cached["repo"].replace("--", "/", 1) if cached else "",
        revision=cached["revision"] if cached else "",
        files={file.name: _known_by(file) for file in files if file.is_file()},
    )


def cached(record: Mapping[str, Any]) -> str:
    """Return the folder in the Hub's cache that an origin's record speaks of; "" if there is none. Asks no server."""
    from huggingface_hub import try_to_load_from_cache

    repository, revision = (str(record.get(key, "")) for key in ("repository", "revision"))
    for name in record.get("files", {}) if repository and revision else ():
        with contextlib.suppress(ValueError):  # a stranger's record names what cannot be a repository
            found = try_to_load_from_cache(repository, name, revision=revision)
            if isinstance(found, str):
                return str(Path(found).parent)
    return ""


def base_name(source: str) -> str:
    """Return a base's name as it may be published: a path by its last part only."""
    return Path(source).name if source.startswith((".", "/", "~")) else source


def files_of(checkpoint: Checkpoint) -> list[Path]:
    """Return the files that hold the tensors and what they are computed from, as far as readers say where they lie."""
    return sorted({file for part in checkpoint.parts() for file in _extents(part)})


def _extents(part: Checkpoint) -> list[Path]:
    extents = (part.extent(name) for name in part.tensors)
    return sorted({Path(extent.file) for extent in extents if extent is not None})


def fingerprint(file: Path) -> str:
    """Return a digest of a file's size and of stretches spread evenly over it; see above."""
    size = file.stat().st_size
    hasher = xxhash.xxh3_128(size.to_bytes(8, "little"))
    with file.open("rb", buffering=0) as opened:
        if size <= STRETCH * STRETCHES:
            hasher.update(opened.read())
            return hasher.hexdigest()
        for index in range(STRETCHES):
            start = (size - STRETCH) * index // (STRETCHES - 1)
            hasher.update(os.pread(opened.fileno(), STRETCH, start))
    return hasher.hexdigest()


def _known_by(file: Path) -> dict[str, Any]:
    blob = os.path.basename(os.readlink(file)) if file.is_symlink() else ""
    size = file.stat().st_size
    if _SHA256.fullmatch(blob) and _SNAPSHOT.search(file.as_posix()):
        return {"bytes": size, "sha256": blob}
    return {"bytes": size, "fingerprint": fingerprint(file)}
