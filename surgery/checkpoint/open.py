"""From what a user wrote to an opened checkpoint: a scheme, a path, or a model on the Hub."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from surgery.checkpoint.base import Checkpoint, Format, Scheme
from surgery.errors import CheckpointError, did_you_mean

# A single letter before the colon is a drive, not a scheme.
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+):(.*)", re.DOTALL)
_HUB: Final = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\S+))?", re.ASCII)
_PICKLES: Final = frozenset((".bin", ".pt", ".pth"))
_HUB_FILES: Final = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


def open_checkpoint(
    source: str, folder: Path, formats: Sequence[Format] = (), schemes: Sequence[Scheme] = ()
) -> Checkpoint:
    """Open `scheme:rest`, a path (relative to `folder`), or `org/name[@revision]` on the Hub.

    `formats` and `schemes` are those of plugins; they are asked before the built-in ones. What exists as a
    path, or begins with `.`, `/` or `~`, is never looked up on the Hub. Raises CheckpointError that says
    what was found.
    """
    try:
        checkpoint = _open_scheme(source, folder, schemes)
        if checkpoint is None:
            checkpoint = _open_path(_local(source, folder), [*formats, *BUILTIN_FORMATS])
    except OSError as error:  # no permission, a name that is too long, a network disk that is gone
        raise CheckpointError(f"{source[:200]}: cannot be read: {error.strerror}; check the path") from error
    checkpoint.location = source
    return checkpoint


def _open_scheme(source: str, folder: Path, schemes: Sequence[Scheme]) -> Checkpoint | None:
    from surgery.checkpoint.memory import memory_scheme

    match = _SCHEME.fullmatch(source)
    if match is None or (folder / source).exists():
        return None
    known = {scheme.name: scheme for scheme in (memory_scheme(), *schemes)}
    scheme = known.get(match[1])
    if scheme is None:
        raise CheckpointError(
            f"{source}: no plugin reads the scheme `{match[1]}:`" + did_you_mean(match[1], known)
        )
    return scheme.open(match[2], folder)


def _local(source: str, folder: Path) -> Path:
    """Return the path that `source` names, from the Hub's cache if it is a repository there."""
    try:
        path = folder / Path(source).expanduser()
    except RuntimeError as error:  # `~nobody`
        raise CheckpointError(f"{source}: {error}") from None
    if path.exists():
        return path
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    near = did_you_mean(path.name, siblings)
    hub = _HUB.fullmatch(source)
    if hub is None:
        raise CheckpointError(f"{source}: there is no such file or folder{near}")
    return _snapshot(source, hub["repo"], hub["revision"], near)


def _snapshot(source: str, repo: str, revision: str | None, near: str) -> Path:
    """Return the folder of a repository in the Hub's cache, fetching what is not there."""
    import huggingface_hub

    try:
        found = Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=[*_HUB_FILES]))
        if not any(found.glob("*.safetensors")):
            # pickles only where there is nothing better: many repositories have both
            patterns = [*_HUB_FILES, "*_model*.bin"]
            found = Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's, the HTTP client's and the file system's: all the user's to mend
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise CheckpointError(
            f"{source}: there is no such file or folder, and it was not found on the Hub: {reason};"
            f" check the name; for a private model log in with `hf auth login`; offline, fetch it before{near}"
        ) from error
    return found


def _open_path(path: Path, formats: Sequence[Format]) -> Checkpoint:
    for candidate in formats:
        if candidate.claims(path):
            return candidate.open(path)
    if not path.is_dir():
        names = ", ".join(candidate.name for candidate in formats)
        raise CheckpointError(f"{path}: is in no known format; known: {names}")
    advice = "give a folder with `*.safetensors` or `pytorch_model.bin`, or the file itself"
    raise CheckpointError(f"{path}: has no weights in a known format, {_contents(path)}; {advice}")


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
