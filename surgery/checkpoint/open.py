"""From what a user wrote to an opened checkpoint: a scheme, a path, or what a scheme claims."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from surgery.checkpoint.base import AdapterFormat, Checkpoint, Format, Scheme
from surgery.errors import CheckpointError, did_you_mean

# A single letter before the colon is a drive, not a scheme.
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+):(.*)", re.DOTALL)
_PICKLES: Final = frozenset((".bin", ".pt", ".pth"))


def open_checkpoint(
    source: str, folder: Path, formats: Sequence[Format] = (), schemes: Sequence[Scheme] = ()
) -> Checkpoint:
    """Open `scheme:rest`, a path (relative to `folder`), or what a scheme claims, such as `org/name`.

    `formats` and `schemes` are those of plugins; they are asked before the built-in ones. What exists as a
    path, or begins with `.`, `/` or `~`, is never offered to a scheme. Raises CheckpointError that says what
    was found.
    """
    try:
        found = _find(source, folder, schemes)
        if isinstance(found, Path):
            found = _open_path(found, [*formats, *BUILTIN_FORMATS])
    except OSError as error:  # no permission, a name that is too long, a network disk that is gone
        raise CheckpointError(f"{source[:200]}: cannot be read: {error.strerror}; check the path") from error
    found.location = source
    return found


def open_adapter(
    source: str,
    folder: Path,
    base: Checkpoint,
    formats: Sequence[AdapterFormat],
    schemes: Sequence[Scheme] = (),
) -> Checkpoint:
    """Return `base` as the adapter that `source` names changes it; sources are looked for as in `open_checkpoint`."""
    try:
        path = _find(source, folder, schemes)
        if isinstance(path, Path):
            for candidate in formats:
                if candidate.claims(path):
                    folded = candidate.fold(path, base)
                    folded.location = f"{base.location} with {source}"
                    return folded
    except OSError as error:
        raise CheckpointError(f"{source[:200]}: cannot be read: {error.strerror}; check the path") from error
    names = ", ".join(candidate.name for candidate in formats)
    raise CheckpointError(f"{source}: is no adapter in a known format; known: {names}")


def _find(source: str, folder: Path, schemes: Sequence[Scheme]) -> Checkpoint | Path:
    """Return the path that `source` names, or what a scheme opens for it."""
    from surgery.checkpoint.memory import memory_scheme

    known = {scheme.name: scheme for scheme in (memory_scheme(), *schemes)}
    match = _SCHEME.fullmatch(source)
    if match is not None and not (folder / source).exists():
        if match[1] not in known:
            raise CheckpointError(
                f"{source}: no plugin reads the scheme `{match[1]}:`" + did_you_mean(match[1], known)
            )
        return known[match[1]].open(match[2], folder)
    try:
        path = folder / Path(source).expanduser()
    except RuntimeError as error:  # `~nobody`
        raise CheckpointError(f"{source}: {error}") from None
    return path if path.exists() else _claimed(source, path, folder, schemes)


def _claimed(source: str, path: Path, folder: Path, schemes: Sequence[Scheme]) -> Checkpoint | Path:
    """Return what a scheme opens for a source that is no path. Raises CheckpointError with names that are near."""
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    near = did_you_mean(path.name, siblings)
    if not source.startswith((".", "/", "~")):
        for scheme in schemes:
            if scheme.claims is not None and scheme.claims(source):
                try:
                    return scheme.open(source, folder)
                except CheckpointError as error:
                    here = f"; if a path is meant: `{path.name}` is not there{near}" if near else ""
                    raise CheckpointError(f"{error}{here}") from error
    raise CheckpointError(f"{source}: there is no such file or folder{near}")


def _open_path(path: Path, formats: Sequence[Format]) -> Checkpoint:
    for candidate in formats:
        if candidate.claims(path):
            return candidate.open(path)
    if not path.is_dir():
        names = ", ".join(candidate.name for candidate in formats)
        raise CheckpointError(f"{path}: is in no known format; known: {names}")
    advice = (
        _inner(path, formats)
        or "give a folder with `*.safetensors` or `pytorch_model.bin`, or the file itself"
    )
    raise CheckpointError(f"{path}: has no weights in a known format, {_contents(path)}; {advice}")


def _inner(folder: Path, formats: Sequence[Format]) -> str | None:
    """Return the advice to name one of the folders inside that hold models, as a diffusion pipeline's do."""
    entries = (entry for entry in sorted(folder.iterdir()) if entry.is_dir())
    inner = [f"`{entry}`" for entry in entries if any(candidate.claims(entry) for candidate in formats)]
    return f"give the part that is meant: {' or '.join(inner)}" if inner else None


def _contents(folder: Path) -> str:
    """Return what a folder holds, for messages: counts by suffix, most frequent first."""
    kinds = Counter(
        f"`*{entry.suffix}`" if entry.suffix else f"`{entry.name}`" for entry in sorted(folder.iterdir())
    )
    if not kinds:
        return "it is empty"
    return "got " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))


def _claims_safetensors(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("[!.]*.safetensors")) or any(path.glob("[!.]*.safetensors.index.json"))
    return path.suffix == ".safetensors"


def _claims_torch(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("[!.]*_model*.bin")) or any(path.glob("[!.]*_model*.bin.index.json"))
    return path.suffix in _PICKLES


def _open_safetensors(path: Path) -> Checkpoint:
    from surgery.checkpoint.safetensors import SafetensorsCheckpoint

    return SafetensorsCheckpoint(path)


def _open_torch(path: Path) -> Checkpoint:
    from surgery.checkpoint.torch_bin import TorchCheckpoint

    return TorchCheckpoint(path)


BUILTIN_FORMATS: Final = (
    Format("safetensors", _claims_safetensors, _open_safetensors),
    Format("torch", _claims_torch, _open_torch),
)
