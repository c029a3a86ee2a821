"""What every reader and writer of weights promises. Imports no torch: bytes come and go through memoryviews."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from surgery.ops import Description, Space
from surgery.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a tensor's bytes lie, for read-ahead and for ordering work by file."""

    file: str
    offset: int
    nbytes: int


class Checkpoint(ABC):
    """An opened checkpoint: headers are read and checked, no weight is.

    `tensors` is in file order. `aliases` maps names that share another tensor's storage to that tensor; they are
    not in `tensors`. `config` is the parsed config.json ({} without one). `sidecars` are the other files of the
    folder that belong to a model (tokenizer, generation config, ...), name -> path.
    """

    location: str  # as the user wrote it, for messages
    tensors: Mapping[str, TensorSpec]
    aliases: Mapping[str, str]
    config: Mapping[str, Any]
    sidecars: Mapping[str, Path]

    # Dtypes in which tensors are written by default, where they are not those in which they are read: what a reader
    # computes (a fold, codes times scales) it may give more exactly than the model itself would hold it.
    native: Mapping[str, str] = MappingProxyType({})

    # What its numbers mean, so that factors or deltas are never taken for weights; and how it is written, if not as a
    # model with config.json and tokenizer.
    space: Space = Space.WEIGHT
    description: Description | None = None

    @abstractmethod
    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on (C order, little-endian). Thread-safe.

        Raises CheckpointError naming file and tensor when the file is shorter than its header says.
        """

    def reader(self, name: str) -> Callable[[int, memoryview], None]:
        """Return `read_into` of one tensor, for many reads: what does not depend on the place is done once."""
        return partial(self.read_into, name)

    @abstractmethod
    def extent(self, name: str) -> Extent | None:
        """Return where the tensor's bytes lie; None if they are not one stretch of a local file."""

    @abstractmethod
    def identity(self, name: str) -> bytes:
        """Return a digest that changes when the tensor's bytes may have changed, without reading them."""

    def prefetch(self, name: str, start: int, nbytes: int) -> None:  # noqa: B027 - advice, that readers may ignore
        """Ask the system to read a stretch ahead; returns at once, never fails."""

    def parts(self) -> tuple[Checkpoint, ...]:
        """Return the checkpoints whose files this one reads: itself, and those that it is made of."""
        return (self,)

    def expect(self, names: Collection[str]) -> None:
        """Take note of the tensors that a run will read, in about this order; each view of a reader calls it once.

        What comes over a network may begin to come now. Raises ResourceError if there is no room for it. A reader of
        other readers passes it on to those that have all of these tensors.
        """
        for part in self.parts():
            if part is not self and all(name in part.tensors for name in names):
                part.expect(names)

    def doing(self) -> str:
        """Return what the reader is busy with besides being read, for a line of progress; usually nothing."""
        return ""

    def whole_file_bytes(self) -> int:
        """Return the bytes that this reader may come to hold (a legacy pickle, an adapter's factors); usually 0."""
        return 0

    def close(self) -> None:  # noqa: B027 - what holds no files has nothing to close
        """Close files. Further reads are errors."""


@dataclass(frozen=True, slots=True)
class Format:
    """A way of storing checkpoints: `claims(path)` says whether a file or folder is one, `open(path)` reads headers."""

    name: str
    claims: Callable[[Path], bool] = field(repr=False)
    open: Callable[[Path], Checkpoint] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scheme:
    """A URI scheme for sources: `open(rest, folder)` gets what follows `scheme:` and the recipe's folder.

    It returns a checkpoint, or a path on this machine that is then opened by its format. `claims(source)` says
    whether a source without a scheme is meant for this one; it is asked when nothing lies at that path, and never
    of what begins with `.`, `/` or `~`.
    """

    name: str
    open: Callable[[str, Path], Checkpoint | Path] = field(repr=False)
    claims: Callable[[str], bool] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AdapterFormat:
    """A way of storing adapters: `claims(path)` says whether a path is one, `fold(path, base)` reads its headers.

    `fold` returns the base as the adapter changes it. It raises PlanError with everything that cannot be folded,
    CheckpointError for files that are missing or damaged.
    """

    name: str
    claims: Callable[[Path], bool] = field(repr=False)
    fold: Callable[[Path, Checkpoint], Checkpoint] = field(repr=False)
