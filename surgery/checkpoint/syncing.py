"""Bringing files and folders to the disk, so that they survive a power cut."""

from __future__ import annotations

import os
from pathlib import Path

# Syncs a file's bytes, and of what is known about it only its size. macOS has no fdatasync.
sync_data = getattr(os, "fdatasync", os.fsync)


def sync_folder(folder: Path) -> None:
    """Return when the names of a folder's files are on the disk: a synced file without its name is lost."""
    sync_file(folder)


def sync_file(path: Path) -> None:
    """Return when a file that is closed is on the disk, whoever wrote it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
