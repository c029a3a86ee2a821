"""Peak memory of `surgery run` under a budget, above an interpreter that has only imported torch.

    python benchmarks/memory.py [--work DIR] [--methods linear,ties] [--memory 512MiB]

On the 1 GB model, and on one whose embedding alone is 1 GB: a program that holds one tensor of each input
passes the first and fails the second. What counts is resident memory, the kernel's own high-water mark;
anonymous memory stands beside it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from engines import METHODS, Bench
from machine import describe, pin
from measure import Usage, watch
from models import EMBEDDING, LLAMA, SHAPES, make
from options import add_common, finish
from rich.table import Table

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Peak:
    """The peaks of one run above the bare interpreter's, in bytes."""

    shape: str
    method: str
    resident: int
    anonymous: int

    def record(self) -> dict[str, object]:
        """Return the peaks in MiB, as JSON holds them."""
        above = {"resident_above_mib": self.resident / MIB, "anonymous_above_mib": self.anonymous / MIB}
        return {"model": self.shape, "method": self.method, **{k: round(v, 1) for k, v in above.items()}}


def main() -> None:
    """Measure each method on each model and report."""
    args = _arguments()
    machine = describe(pin(args.cores))
    bare = _bare(args.work)
    peaks = [
        _measure(shape, method, args.work, args.memory, bare)
        for shape in args.shapes.split(",")
        for method in args.methods.split(",")
    ]
    limit = _bytes(args.memory)
    missed = [
        f"{peak.shape} {peak.method}: {peak.resident / MIB:.0f} MiB above torch, wanted {args.memory} at most"
        for peak in peaks
        if peak.resident > limit
    ]
    interpreter = {"resident_mib": bare.peak_resident / MIB, "anonymous_mib": bare.peak_anonymous / MIB}
    settings = {"memory": args.memory, "interpreter": {k: round(v, 1) for k, v in interpreter.items()}}
    record = {"machine": machine, "settings": settings, "peaks": [peak.record() for peak in peaks]}
    finish(args.name, [_table(peaks, args.memory)], missed, record)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Peak memory of surgery run under a budget.")
    add_common(parser, name="memory")
    parser.add_argument("--methods", default=",".join(METHODS), help="which of linear,ties (both)")
    parser.add_argument("--memory", default="512MiB", help="surgery's budget (512MiB)")
    shapes = f"{LLAMA.name},{EMBEDDING.name}"
    parser.add_argument("--shapes", default=shapes, help=f"which of {', '.join(SHAPES)} ({shapes})")
    return parser.parse_args()


def _bare(work: Path) -> Usage:
    """Return what an interpreter takes that imports torch and does nothing with it."""
    work.mkdir(parents=True, exist_ok=True)
    code = "import time, torch; time.sleep(0.2)"  # long enough for the sampler to see it
    return watch([sys.executable, "-c", code], work)


def _measure(shape: str, method: str, work: Path, memory: str, bare: Usage) -> Peak:
    bench = Bench(work, work / "out", make(SHAPES[shape], work), memory)
    run = bench.run(method, "surgery")
    peak = Peak(
        shape, method, run.peak_resident - bare.peak_resident, run.peak_anonymous - bare.peak_anonymous
    )
    print(f"{shape} {method}: {peak.resident / MIB:.0f} MiB", flush=True)
    return peak


def _table(peaks: list[Peak], memory: str) -> Table:
    title = f"peak above torch, --memory {memory}"
    grid = Table("model", "method", "resident MiB", "anonymous MiB", title=title)
    for peak in peaks:
        grid.add_row(peak.shape, peak.method, f"{peak.resident / MIB:.0f}", f"{peak.anonymous / MIB:.0f}")
    return grid


def _bytes(text: str) -> int:
    """Return the bytes of a size such as `512MiB` or `2GiB`."""
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    return int(float(text[:-3]) * units[text[-3:]])


if __name__ == "__main__":
    main()
