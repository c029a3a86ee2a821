"""What happened: records for the command line, the Python API and hooks."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import Finding
from surgery.notes import Noted

if TYPE_CHECKING:
    from surgery.plan.model import Output, Plan


@dataclass(frozen=True, slots=True)
class JobDone:
    """A tensor is on disk and journaled."""

    output: str
    tensor: str
    nbytes: int
    xxh3: str


@dataclass(frozen=True, slots=True)
class Written:
    """A published output; `notes` is what ops noted, by the output's tensor."""

    name: str
    folder: Path
    tensors: int
    nbytes: int
    shards: int
    url: str = ""  # where it was published, if not in the folder
    notes: Mapping[str, tuple[Noted, ...]] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment of a run: seconds since its work began, bytes read and written until then, resident memory."""

    seconds: float
    read: int
    written: int
    rss: int


@dataclass(frozen=True, slots=True)
class Report:
    """A finished run. Times in seconds; `peak_rss` is the process's largest resident memory in bytes.

    `samples` are the first process's, a few a second.
    """

    outputs: tuple[Written, ...]
    seconds: float
    bytes_read: int
    bytes_written: int
    peak_rss: int
    workers: int
    device: str
    resumed: int = 0  # tensors kept from an interrupted run
    warnings: tuple[Finding, ...] = ()
    processes: int = 1
    samples: tuple[Sample, ...] = field(default=(), repr=False)


# Writes what else belongs into an output's folder before it is published; returns the names of the files.
Leave = Callable[["Plan", Report, "Output", Path], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, for a progress bar."""

    done: int
    total: int
    tensor: str
    seconds: float
    note: str = ""  # what goes on beside the work: files that are fetched, files that are published


Listener = Callable[[Progress], None]


@dataclass(slots=True)
class Meter:
    """Counts bytes written, from all workers."""

    total: int
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    tensor: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, nbytes: int, tensor: str) -> None:
        """Count bytes of a tensor."""
        with self._lock:
            self.done += nbytes
            self.tensor = tensor

    def progress(self, note: str = "") -> Progress:
        """Return how far the run is now; `note` says what goes on beside it."""
        return Progress(self.done, self.total, self.tensor, time.monotonic() - self.started, note)


def peak_rss() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
