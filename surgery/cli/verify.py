"""`surgery verify`: check an output's files against the hashes written with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.bar import Bar
from surgery.cli.console import on_terminal, say
from surgery.cli.words import count
from surgery.errors import CheckpointError
from surgery.tensors import human_bytes

if TYPE_CHECKING:
    from surgery.checkpoint.base import Checkpoint

Seen = Callable[[int, int, str], None]  # bytes done, of all, the tensor


@click.command("verify")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Check an output's files against the hashes written with it.

    Reads every byte. Files that the output did not come with, such as a model card, are left alone.
    """
    manifest = read_manifest(folder)
    with Bar() if on_terminal(err=True) else nullcontext() as bar:
        problems, nbytes = check(folder, manifest, bar.show if bar else None)
    if problems:
        raise CheckpointError("\n".join(problems))
    tensors, files = count(len(manifest["tensors"]), "tensor"), count(len(manifest["files"]), "other file")
    say(f"{folder}: {tensors} ({human_bytes(nbytes)}) and {files} are as they were written")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what was noted when the output was written. Raises CheckpointError if that is missing or damaged."""
    from surgery.checkpoint.strict_json import parse_object
    from surgery.execute.publish import MANIFEST

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


def check(folder: Path, manifest: dict[str, Any], seen: Seen | None = None) -> tuple[list[str], int]:
    """Return everything that is not as the manifest says, and the bytes of all tensors."""
    from surgery.checkpoint.safetensors import SafetensorsCheckpoint

    problems = list(_files(folder, manifest["files"]))
    try:
        checkpoint = SafetensorsCheckpoint(folder)
    except CheckpointError as error:
        return [*problems, *str(error).splitlines()], 0
    try:
        problems += _names(folder, checkpoint, manifest["tensors"])
        problems += _tensors(folder, checkpoint, manifest["tensors"], seen)
    finally:
        checkpoint.close()
    return problems, sum(spec.nbytes for spec in checkpoint.tensors.values())


def _files(folder: Path, hashes: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the files beside the weights."""
    import xxhash

    for name, wanted in hashes.items():
        path = folder / Path(name).name  # a damaged manifest must not make us read elsewhere
        if not path.is_file():
            yield f"{path}: is missing"
        elif (found := xxhash.xxh3_128(path.read_bytes()).hexdigest()) != wanted:
            yield f"{path}: was changed: {_hashes(found, wanted)}"


def _names(folder: Path, checkpoint: Checkpoint, listed: dict[str, Any]) -> Iterator[str]:
    """Yield tensors that are missing, that nothing lists, and that lie in another file than they should."""
    for name in listed:
        if name not in checkpoint.tensors:
            yield f"{folder}: tensor `{name}` is missing"
    for name in checkpoint.tensors:
        file = _file(checkpoint, name)
        if name not in listed:
            yield f"{folder / file}: tensor `{name}` was not written with the others"
        elif listed[name].get("file") != file:
            yield f"{folder / file}: tensor `{name}` was written to `{listed[name].get('file')}`"


def _tensors(
    folder: Path, checkpoint: Checkpoint, listed: dict[str, Any], seen: Seen | None
) -> Iterator[str]:
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
            yield f"{folder / _file(checkpoint, spec.name)}: tensor `{spec.name}` was changed: " + _hashes(
                found, wanted
            )


def _file(checkpoint: Checkpoint, name: str) -> str:
    extent = checkpoint.extent(name)
    return Path(extent.file).name if extent else ""


def _hashes(found: str, wanted: object) -> str:
    return f"its hash is {found}, it was written with {wanted}"
