"""What a calibration keeps on disk: statistics of finished blocks, and the samples between two blocks.

A folder named by the digest of all that the numbers depend on. Files appear in it by a rename, complete and synced:
a run that is killed anywhere goes on behind the last block whose results are there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from surgery.checkpoint.syncing import sync_file, sync_folder
from surgery.errors import ResourceError

_SEPARATOR: Final = "/"  # between a tensor's name and what is known of its inputs


class Store:
    """The folder of one calibration."""

    def __init__(self, folder: Path, shape: tuple[int, int]) -> None:
        """`shape` is the number of samples, and of their tokens."""
        self._folder, self._shape = folder, shape
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for unfinished in folder.glob("*.new"):
                unfinished.unlink()

    def statistics(self, part: str) -> dict[str, dict[str, torch.Tensor]] | None:
        """Return the statistics of a finished part of the model, by tensor and `Need`; None if there are none."""
        from safetensors.torch import load_file

        file = self._folder / f"{part}.safetensors"
        if not file.exists():
            return None
        found: dict[str, dict[str, torch.Tensor]] = {}
        for key, values in load_file(file).items():
            name, _, need = key.rpartition(_SEPARATOR)
            found.setdefault(name, {})[need] = values
        return found

    def keep_statistics(self, part: str, found: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Keep the statistics of a part of the model."""
        from safetensors.torch import save_file

        flat = {
            f"{name}{_SEPARATOR}{need}": values.contiguous()
            for name, sums in found.items()
            for need, values in sums.items()
        }
        with self._written(f"{part}.safetensors") as file:
            save_file(flat, file)

    def reached(self) -> int:
        """Return the last block whose inputs are there; -1 if there are none."""
        blocks = [int(file.stem.rpartition("-")[2]) for file in self._folder.glob("inputs-*.bin")]
        return max(blocks, default=-1)

    def inputs(self, block: int) -> States:
        """Open the samples as a block is given them."""
        file = self._folder / f"inputs-{block}.bin"
        hidden = file.stat().st_size // (self._shape[0] * self._shape[1] * 4)
        return States(file, self._shape[1], hidden)

    @contextmanager
    def new_inputs(self, block: int, hidden: int) -> Iterator[States]:
        """Write the samples as a block will be given them; those of blocks before it are then removed."""
        with self._written(f"inputs-{block}.bin") as file:
            with file.open("wb") as made:
                made.truncate(self._shape[0] * self._shape[1] * hidden * 4)
            states = States(file, self._shape[1], hidden)
            try:
                yield states
            finally:
                states.close()
        self.forget_inputs(before=block)

    def forget_inputs(self, before: int | None = None) -> None:
        """Remove samples that are not needed any more."""
        for file in self._folder.glob("inputs-*.bin"):
            if before is None or int(file.stem.rpartition("-")[2]) < before:
                file.unlink()

    @contextmanager
    def _written(self, name: str) -> Iterator[Path]:
        """Give a file to write, which then appears under its name at once."""
        file = self._folder / f"{name}.new"
        with _told(self._folder):
            yield file
            sync_file(file)
            os.replace(file, self._folder / name)
            sync_folder(self._folder)


class States:
    """Hidden states of all samples in a file: float32 [samples, length, hidden], read and written by sample."""

    def __init__(self, file: Path, length: int, hidden: int) -> None:
        self._shape = (length, hidden)
        self._size = length * hidden * 4
        self._descriptor = os.open(file, os.O_RDWR)

    @property
    def hidden(self) -> int:
        """Return the size of a token's state."""
        return self._shape[1]

    def read(self, sample: int) -> torch.Tensor:
        """Return a sample's states, [length, hidden]."""
        values = np.empty(self._shape, np.float32)
        view, at = values.data.cast("B"), 0
        while at < self._size:
            count = os.preadv(self._descriptor, [view[at:]], sample * self._size + at)
            if count == 0:
                raise ResourceError("calibration: a file of hidden states became shorter; run again")
            at += count
        return torch.from_numpy(values)

    def write(self, sample: int, values: torch.Tensor) -> None:
        """Write a sample's states."""
        data = values.to("cpu", torch.float32).contiguous().numpy().data.cast("B")
        at = 0
        while at < self._size:
            at += os.pwrite(self._descriptor, data[at:], sample * self._size + at)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def forget_others(work: Path, prefix: str, kept: set[str]) -> None:
    """Remove what calibrations of other digests left in a work folder."""
    for folder in work.glob(f"{prefix}*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _told(folder: Path) -> Iterator[Any]:
    """Turn what the system says about the folder into a ResourceError."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be written: {error.strerror or error}; free some space or write elsewhere"
        ) from error
