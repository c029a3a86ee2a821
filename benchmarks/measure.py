"""Run a program and watch it from outside: seconds, memory, what it printed; one instrument for all.

Memory is the kernel's own account (/proc/PID/status), summed over the process and its descendants, sampled
every 20 ms. *Anonymous* memory (RssAnon and RssShmem) is what the program holds; *resident* adds the file
pages that it has mapped: libraries, and weights where a program maps its files, which the kernel can take
back at any time.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PERIOD = 0.02


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run of a program took: seconds from start to exit, peaks in bytes, exit code, output."""

    seconds: float
    peak_anonymous: int
    peak_resident: int
    returncode: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        """Return the last line that the program printed."""
        lines = self.stdout.strip().splitlines()
        return lines[-1] if lines else ""


def watch(command: list[str], folder: Path) -> Usage:
    """Run a command in a folder, without a network, and return what it took."""
    # the outputs go to files: a full pipe would stop the program while the sampler sleeps
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=_offline(), stdout=out, stderr=err)
        anonymous, resident = _sample(process)
        seconds = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        return Usage(seconds, anonymous, resident, process.returncode, out.read(), err.read())


def _offline() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def _sample(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Return the peaks of anonymous and of resident memory over the life of a process."""
    anonymous = resident = 0
    while process.poll() is None:
        states = [_status(pid) for pid in _tree(process.pid)]
        anonymous = max(anonymous, sum(s.get("RssAnon", 0) + s.get("RssShmem", 0) for s in states))
        # the kernel's high-water mark misses nothing between two samples, but knows one process only
        marks = [s.get("VmHWM", 0) for s in states[:1]]
        resident = max(resident, sum(s.get("VmRSS", 0) for s in states), *marks)
        time.sleep(PERIOD)
    return anonymous, resident


def _tree(pid: int) -> Iterator[int]:
    """Yield a process and its descendants, as far as they are still there."""
    yield pid
    try:
        children = [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in _words(task / "children")]
    except OSError:
        return
    for child in children:
        yield from _tree(child)


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split()


def _status(pid: int) -> dict[str, int]:
    """Return the memory lines of /proc/PID/status in bytes; nothing for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {key: int(value.split()[0]) * 1024 for key, value in pairs}
