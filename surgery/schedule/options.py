"""How a run is to be carried out: what the user may set, in one record."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from surgery.errors import ResourceError
from surgery.tensors import human_bytes

Device = Literal["auto", "cpu", "cuda"]

SMALLEST_BUDGET = 64 * 2**20


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Settings of a run.

    memory   bytes that the run may use above the interpreter with torch imported; None: a quarter of what is free
    threads  workers; None: one for each core, at most eight
    device   where tensors are computed; auto: an accelerator if there is one
    resume   continue from what an interrupted run left, if its plan is the same
    force    replace a finished output
    chunk    elements computed at a time; for tests: it never changes bytes
    """

    memory: int | None = None
    threads: int | None = None
    device: Device = "auto"
    resume: bool = True
    force: bool = False
    chunk: int | None = None

    def budget(self) -> int:
        """Return the memory budget in bytes."""
        if self.memory is None:
            return max(available_memory() // 4, SMALLEST_BUDGET)
        if self.memory < SMALLEST_BUDGET:
            raise ResourceError(
                f"--memory: {human_bytes(self.memory)} is too little; give at least {human_bytes(SMALLEST_BUDGET)}"
            )
        return self.memory

    def workers(self) -> int:
        """Return the number of worker threads."""
        return self.threads or min(len(os.sched_getaffinity(0)), 8)


def available_memory() -> int:
    """Return the bytes of memory that can be had: of the machine, or of the control group if that allows less."""
    free = _machine_available()
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no control group, or `max`: no limit
            continue
    return max(free, 0)


def _machine_available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
