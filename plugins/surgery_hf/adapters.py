"""PEFT's adapters: a folder with adapter_config.json, folded into the base that a recipe names beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from surgery.checkpoint.base import AdapterFormat, Checkpoint
from surgery.errors import CheckpointError
from surgery_hf.peft_config import CONFIG, read_config

# What peft writes, and what it wrote before safetensors.
_FILES: Final = ("adapter_model.safetensors", "adapter_model.bin")


def _claims(path: Path) -> bool:
    return path.is_dir() and (path / CONFIG).is_file()


def fold(folder: Path, base: Checkpoint) -> Checkpoint:
    """Return the base as the adapter in `folder` changes it. Reads headers only.

    Raises PlanError with everything that cannot be folded, CheckpointError for files that are missing or damaged.
    """
    from surgery.checkpoint.open import open_checkpoint
    from surgery_hf.folded import FoldedCheckpoint
    from surgery_hf.peft_edits import edits_of

    config = read_config(folder)
    files = [folder / name for name in _FILES if (folder / name).is_file()]
    if not files:
        raise CheckpointError(f"{folder}: has {CONFIG} but no `{_FILES[0]}`; save the adapter again")
    adapter = open_checkpoint(str(files[0].absolute()), folder)
    return FoldedCheckpoint(base, adapter, edits_of(folder, adapter, config, base))


PEFT: Final = AdapterFormat("peft", _claims, fold)
