"""How a run went over time: bytes moved and resident memory, a few times a second, in little memory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from surgery.execute.report import Sample, peak_rss

EVERY: Final = 0.25  # seconds between two samples, at first
MOST: Final = 1200  # samples kept: beyond it every second one goes, and they are taken half as often

_STATM: Final = Path("/proc/self/statm")


def resident() -> int:
    """Return the bytes of memory that this process holds now; where the system does not say, the most it held."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return peak_rss()
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Samples:
    """Taken by one thread."""

    started: float = field(default_factory=time.monotonic)
    every: float = EVERY
    taken: list[Sample] = field(default_factory=list)

    def offer(self, read: int, written: int) -> None:
        """Take a sample if it is time for one."""
        seconds = time.monotonic() - self.started
        if not self.taken or seconds - self.taken[-1].seconds >= self.every:
            self.take(read, written)

    def take(self, read: int, written: int) -> None:
        """Take a sample of the bytes read and written so far."""
        self.taken.append(Sample(time.monotonic() - self.started, read, written, resident()))
        if len(self.taken) > MOST:
            del self.taken[1::2]
            self.every *= 2
