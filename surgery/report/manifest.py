"""surgery.json, read back: what was noted when an output was written, and what has become of it since."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.sidecars import is_sidecar
from surgery.checkpoint.strict_json import parse_object
from surgery.errors import CheckpointError
from surgery.execute.publish import MANIFEST

Seen = Callable[[int, int, str], None]  # bytes done, of all, the tensor


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was written: a tensor, or a file beside the weights; what is wrong in words."""

    subject: str
    kind: Literal["missing", "changed", "moved", "added", "unreadable"]
    what: str

    def __str__(self) -> str:
        return self.what


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what was noted when the output was written. Raises CheckpointError if that is missing or damaged."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is not a folder; give one that `surgery run` wrote")
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: has no {MANIFEST}, there is nothing to check against; `surgery run` writes one"
        )
    manifest = parse_object(path.read_bytes(), str(path))
    if manifest.get("format") != 1:
        raise CheckpointError(f"{path}: is of format `{manifest.get('format')}`, this release reads format 1")
    for key, kind in (("files", str), ("tensors", dict)):
        listed = manifest.get(key)
        if not isinstance(listed, dict) or not all(isinstance(value, kind) for value in listed.values()):
            raise CheckpointError(f"{path}: `{key}` is not what surgery writes; the file is damaged")
    return manifest


def check(folder: Path, manifest: Mapping[str, Any], seen: Seen | None = None) -> tuple[list[Fault], int]:
    """Return everything that is not as the manifest says, and the bytes of all tensors."""
    from surgery.checkpoint.safetensors import SafetensorsCheckpoint

    faults = list(_files(folder, manifest["files"]))
    try:
        checkpoint = SafetensorsCheckpoint(folder)
    except CheckpointError as error:
        return [*faults, *(Fault("", "unreadable", line) for line in str(error).splitlines())], 0
    try:
        faults += _names(folder, checkpoint, manifest["tensors"])
        faults += _tensors(folder, checkpoint, manifest["tensors"], seen)
    finally:
        checkpoint.close()
    return faults, sum(spec.nbytes for spec in checkpoint.tensors.values())


def _files(folder: Path, hashes: Mapping[str, str]) -> Iterator[Fault]:
    """Yield what is wrong with the files beside the weights."""
    import xxhash

    for name, wanted in hashes.items():
        # a damaged manifest must not make us read elsewhere
        path = folder / (name if is_sidecar(name) else Path(name).name)
        if not path.is_file():
            yield Fault(name, "missing", f"{path}: is missing")
        elif (found := xxhash.xxh3_128(path.read_bytes()).hexdigest()) != wanted:
            yield Fault(name, "changed", f"{path}: was changed: {_hashes(found, wanted)}")


def _names(folder: Path, checkpoint: Checkpoint, listed: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield tensors that are missing, that nothing lists, and that lie in another file than they should."""
    for name in listed:
        if name not in checkpoint.tensors:
            yield Fault(name, "missing", f"{folder}: tensor `{name}` is missing")
    for name in checkpoint.tensors:
        file = _file(checkpoint, name)
        where = f"{folder / file}: tensor `{name}`"
        if name not in listed:
            yield Fault(name, "added", f"{where} was not written with the others")
        elif listed[name].get("file") != file:
            yield Fault(name, "moved", f"{where} was written to `{listed[name].get('file')}`")


def _tensors(
    folder: Path, checkpoint: Checkpoint, listed: Mapping[str, Any], seen: Seen | None
) -> Iterator[Fault]:
    """Yield tensors whose bytes are not what was written."""
    from surgery.checkpoint.hashing import hash_stretch

    specs = [spec for name, spec in checkpoint.tensors.items() if name in listed]
    total, done = sum(spec.nbytes for spec in specs), 0
    for spec in specs:
        found = hash_stretch(partial(checkpoint.read_into, spec.name), spec.nbytes)
        wanted = listed[spec.name].get("xxh3")
        done += spec.nbytes
        if seen is not None:
            seen(done, total, spec.name)
        if found != wanted:
            where = f"{folder / _file(checkpoint, spec.name)}: tensor `{spec.name}`"
            yield Fault(spec.name, "changed", f"{where} was changed: {_hashes(found, wanted)}")


def _file(checkpoint: Checkpoint, name: str) -> str:
    extent = checkpoint.extent(name)
    return Path(extent.file).name if extent else ""


def _hashes(found: str, wanted: object) -> str:
    return f"its hash is {found}, it was written with {wanted}"
