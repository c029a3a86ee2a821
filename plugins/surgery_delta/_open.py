"""Opening deltas: as changes of a base that a recipe names beside them, or by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from surgery.checkpoint.base import AdapterFormat, Checkpoint
from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.checkpoint.origin import base_name, origin_of
from surgery.checkpoint.strict_json import parse_object
from surgery.errors import CheckpointError, Finding, PlanError
from surgery.ops import Space
from surgery_delta._applied import DeltaCheckpoint
from surgery_delta._describe import as_delta
from surgery_delta._kinds import KINDS
from surgery_delta._read import read_headers
from surgery_delta._stored import CONFIG, FORMAT, Delta

_MANIFEST: Final = "surgery.json"  # what every run leaves beside the weights


def _claims(path: Path) -> bool:
    return path.is_dir() and (path / CONFIG).is_file()


def apply(folder: Path, base: Checkpoint) -> Checkpoint:
    """Return the base as the delta in `folder` changes it. Reads headers only.

    Raises PlanError with everything that shows that the delta was taken of another base, CheckpointError for files that
    are missing or damaged.
    """
    from surgery.checkpoint.open import open_checkpoint

    said, p = _config(folder)
    named = str(said.get("base", "its base"))
    delta = open_checkpoint(str(folder.absolute()), folder)
    found = read_headers(delta, base, p)
    problems = [*found.problems()] or _other_files(folder, named, base)
    if problems:
        delta.close()
        where, advice = f"`{base.location}` is not its base", f"name `{named}` as `source:`"
        raise PlanError([Finding(f"{folder}: {where}: {what}; {advice}") for what in problems])
    return DeltaCheckpoint(base, delta, found.changes, found.whole, named)


def by_itself(checkpoint: Checkpoint) -> Checkpoint | None:
    """Return a view of a delta that was opened like a model, so that it is never taken for one; else None."""
    name = next(iter(checkpoint.tensors), None)
    extent = checkpoint.extent(name) if name else None
    folder = Path(extent.file).parent if extent else None
    if folder is None or not _claims(folder):
        return None
    said, _ = _config(folder)
    view = DeltaCheckpoint(checkpoint, MemoryCheckpoint({}), {}, (), "")
    view.config, view.space = said, Space.DELTA
    view.description = as_delta(said)
    return view


def _config(folder: Path) -> tuple[dict[str, Any], Delta]:
    """Return a delta's config, and the parameters of its codec. Raises CheckpointError for what we did not write."""
    path = folder / CONFIG
    said = parse_object(path.read_bytes(), str(path))
    if said.get("delta_format") != FORMAT:
        got = said.get("delta_format")
        raise CheckpointError(f"{path}: is of format `{got}`, this release reads format {FORMAT}")
    kind = KINDS.get(str(said.get("codec")))
    if kind is None:
        known = ", ".join(f"`{name}`" for name in sorted(KINDS))
        raise CheckpointError(f"{path}: unknown codec `{said.get('codec')}`, known: {known}; update surgery")
    try:
        return said, kind.params.model_validate(said.get("parameters"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("parameters", *first["loc"])))
        raise CheckpointError(f"{path}: {where}: {first['msg']}; the file is damaged") from None


def _other_files(folder: Path, named: str, base: Checkpoint) -> list[str]:
    """Return which of the base's files have other bytes than when the delta was taken, as far as that was noted.

    Files of other names or sizes may hold the same tensors: that shows when they are read.
    """
    before, now = _noted(folder, named), origin_of(base).files
    if set(before) != set(now) or any(before[name].get("bytes") != now[name]["bytes"] for name in now):
        return []
    pairs = [(before[name], now[name]) for name in now]
    same = all(one[key] == other[key] for one, other in pairs for key in one.keys() & other.keys())
    return [] if same else ["it has other bytes than the one that the delta was taken of"]


def _noted(folder: Path, named: str) -> dict[str, dict[str, Any]]:
    """Return what was noted of the base's files when the delta was taken; nothing where that is not clear."""
    path = folder / _MANIFEST
    models = parse_object(path.read_bytes(), str(path)).get("models") if path.is_file() else None
    listed = (
        [model for model in models.values() if isinstance(model, dict)] if isinstance(models, dict) else []
    )
    files = [m.get("files") for m in listed if base_name(str(m.get("source", ""))) == named]
    if len(files) != 1 or not isinstance(files[0], dict):
        return {}
    return {name: noted for name, noted in files[0].items() if isinstance(noted, dict)}


DELTA: Final = AdapterFormat("delta", _claims, apply)
