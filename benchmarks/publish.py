"""What publishing adds to a merge: computing alone, uploading alone, and both at once, shards leaving as they finish.

    python benchmarks/publish.py [--work DIR] [--repeat 2]

Merges of three fine-tunes of a model of 1 GB, written in shards of 50 MB: a linear one, which is computed far faster
than a line carries it, and TIES, which takes about as long as a line of 800 Mbit/s. A loopback Hub in a process of its
own (tests/hub/server.py) takes bytes no faster than the line does. It throws them away: hashing and storing them would
take the merge's cores, and the real one has its own. Each figure is the best of some rounds, all three taken in each
round. Wanted: publishing adds at most 20 % to the slower of computing and uploading.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import describe, pin
from models import LLAMA, make
from options import add_common, finish
from rich.table import Table

if TYPE_CHECKING:
    from surgery.api import ResolvedPlan

SERVER = Path(__file__).resolve().parents[1] / "tests" / "hub" / "server.py"
TOKEN = "hf_a_token_that_may_write"  # which that server knows
ALLOWED = 1.2
CASES = (("linear", 100e6), ("ties", 50e6), ("ties", 100e6))  # merges, bytes a second that the line carries
EACH = {"linear": "{weight: 1}", "ties": "{weight: 0.5, density: 0.5}"}
BASE = {"linear": "", "ties": "base: base, "}
RECIPE = """\
surgery: 1
models: {{base: {base}, a: {a}, b: {b}, c: {c}}}
steps:
  merged: {{op: merge.{merge}, {base_key}models: {{a: {each}, b: {each}, c: {each}}}}}
output: {{model: merged, to: "{to}", shard_size: 50MB}}
"""


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_common(parser, name="publish")
    parser.add_argument("--repeat", type=int, default=2, help="rounds, of which the best counts (2)")
    args = parser.parse_args()
    machine = describe(pin(args.cores))
    folders = make(LLAMA, args.work)
    cases = [_case(args.work / "publish", folders, *case, args.repeat) for case in CASES]
    record = {
        "machine": machine,
        "settings": {"bytes": _size(folders["base"]), "rounds": args.repeat, "shards": "50MB"},
        "cases": cases,
    }
    finish(args.name, [_table(cases)], [_missed(case) for case in cases if case["ratio"] > ALLOWED], record)


def _case(work: Path, folders: dict[str, Path], merge: str, rate: float, repeat: int) -> dict[str, Any]:
    """Return the seconds of one merge on one line, all rounds and the best."""
    rounds = [_round(work, folders, merge, rate) for _ in range(repeat)]
    best = {name: min(one[name] for one in rounds) for name in rounds[0]}
    ratio = round(best["both"] / max(best["compute"], best["upload"]), 3)
    return {"merge": merge, "rate": rate, "best": best, "ratio": ratio, "rounds": rounds}


def _round(work: Path, folders: dict[str, Path], merge: str, rate: float) -> dict[str, float]:
    """Return the seconds of computing into a folder, of uploading that folder, and of both at once."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    seconds = {}
    with _hub(work / "store", rate):
        local = _plan(folders, work, merge, "./local")
        seconds["compute"] = _timed(local.run)
        seconds["upload"] = _timed(lambda: _push(work / "local"))
    with _hub(work / "store", rate):  # an empty one: nothing may be there already
        both = _plan(folders, work, merge, "hub:me/merged")
        seconds["both"] = _timed(both.run)
    return {name: round(taken, 3) for name, taken in seconds.items()}


def _plan(folders: dict[str, Path], work: Path, merge: str, to: str) -> ResolvedPlan:
    import surgery

    text = RECIPE.format(to=to, merge=merge, base_key=BASE[merge], each=EACH[merge], **folders)
    return surgery.loads(text, folder=work).resolve()


def _push(folder: Path) -> None:
    from surgery.host import Host

    (destination,) = [one for one in Host().destinations() if one.name == "hub"]
    publisher = destination.open("me/merged", False)
    publisher.begin()
    publisher.finish(folder)
    publisher.close()


def _timed(work: Callable[[], object]) -> float:
    os.sync()  # no measurement pays for the one before it
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def _hub(folder: Path, rate: float) -> Iterator[None]:
    """Run an empty loopback Hub that this process's client talks to."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, str(SERVER), str(folder), "--rate", str(rate), "--trusting"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        os.environ["HF_ENDPOINT"] = server.stdout.readline().strip()
        yield
    finally:
        server.stdin.close()
        server.wait()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _missed(case: dict[str, Any]) -> str:
    line = f"{case['rate'] / 125e3:.0f} Mbit/s"
    return f"{case['merge']}, {line}: both take {case['ratio']:.2f} x the slower, wanted {ALLOWED} at most"


def _table(cases: list[dict[str, Any]]) -> Table:
    grid = Table(
        "merge",
        "line, Mbit/s",
        "compute s",
        "upload s",
        "both s",
        "both / slower",
        title="publishing a 1 GB merge",
    )
    for case in cases:
        seconds = (f"{case['best'][name]:.2f}" for name in ("compute", "upload", "both"))
        grid.add_row(case["merge"], f"{case['rate'] / 125e3:.0f}", *seconds, f"{case['ratio']:.2f}")
    return grid


if __name__ == "__main__":
    os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    main()
