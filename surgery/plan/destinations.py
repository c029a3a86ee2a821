"""Where outputs go: nothing finished is overwritten unasked, no source ever, and the disk must have room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.plan.model import Output
from surgery.plan.problems import Problems
from surgery.tensors import human_bytes

PARTIAL = ".partial"


def partial_folder(folder: Path) -> Path:
    """Return where an output is built before it is renamed to its place."""
    return folder.with_name(folder.name + PARTIAL)


def check_destinations(
    outputs: Iterable[Output], checkpoints: Iterable[Checkpoint], problems: Problems, *, force: bool
) -> None:
    """Note what stands in the way of writing the outputs."""
    read = {part for checkpoint in checkpoints for part in checkpoint.parts()}
    files = [Path(extent.file) for c in read if (extent := _any_extent(c)) is not None]
    sources = {folder for file in files for folder in (file.parent.resolve(), file.resolve().parent)}
    taken = _homes(problems.recipe.folder)
    wanted: dict[Path, int] = {}
    for output in outputs:
        folder = output.folder
        if folder is None:
            continue
        path = _path(problems, output)
        stays = output.target is None or output.target.keep
        if folder.resolve() in taken or folder.name in ("", ".."):
            problems.add(path, f"{folder} is where the recipe or you are, or above; give a folder of its own")
            continue
        if any(source == folder.resolve() or folder.resolve() in source.parents for source in sources):
            problems.add(path, f"{folder} holds a model that this recipe reads; write somewhere else")
        elif stays and folder.exists() and not folder.is_dir():
            problems.add(path, f"{folder} is a file; give a folder")
        elif stays and folder.is_dir() and any(folder.iterdir()) and not force:
            problems.add(path, f"{folder} exists and is not empty; choose another folder or pass --force")
        ancestor = _existing(folder)
        if not ancestor.is_dir():
            if ancestor != folder.absolute():
                problems.add(
                    path, f"{ancestor} is a file, nothing can be written in it; choose another folder"
                )
            continue
        if not os.access(ancestor, os.W_OK | os.X_OK):
            problems.add(path, f"cannot write in {ancestor}; choose another folder or change its permissions")
        written = _on_disk(partial_folder(folder))
        wanted[ancestor] = wanted.get(ancestor, 0) + max(output.nbytes - written, 0)
    for ancestor, nbytes in wanted.items():
        free = shutil.disk_usage(ancestor).free
        if nbytes > free:
            problems.add(
                ("output",),
                f"needs {human_bytes(nbytes)} in {ancestor}, {human_bytes(free)} are free; "
                "free space or choose another disk",
            )


def _homes(folder: Path) -> set[Path]:
    """Return the recipe's folder, the current one, and all above them: an output takes the place of its folder."""
    return {home for place in (folder, Path()) for home in (place.resolve(), *place.resolve().parents)}


def _path(problems: Problems, output: Output) -> tuple[str, ...]:
    outputs = problems.recipe.outputs
    key = "keep" if output.target is not None and output.target.keep else "to"
    return ("outputs", output.name, key) if outputs and output.name in outputs else ("output", key)


def _any_extent(checkpoint: Checkpoint) -> Extent | None:
    return next((e for name in checkpoint.tensors if (e := checkpoint.extent(name))), None)


def _existing(folder: Path) -> Path:
    """Return the nearest that exists of the folder and what it lies in."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _on_disk(folder: Path) -> int:
    """Return the bytes that an interrupted run has already allocated."""
    return sum(f.stat().st_blocks * 512 for f in folder.glob("*.safetensors")) if folder.is_dir() else 0
