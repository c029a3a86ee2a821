"""What the numbers were measured on, without paths or users' names; the cores that everything is kept on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path


def pin(cores: int) -> int:
    """Keep this process and its children on the first `cores` cores that it may use; return their number."""
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, chosen)
    return len(chosen)


def describe(cores: int) -> dict[str, object]:
    """Return the machine and the versions of what is measured."""
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name"),
        "cores_used": cores,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "model-surgery": _version("model-surgery"),
    }


def _field(path: Path, name: str) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "unknown")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
