"""What publishing adds to a merge: computing alone, uploading alone, and both at once, shards leaving as they finish.

    python benchmarks/publish.py [--work DIR] [--rate 100e6] [--repeat 2]

A TIES merge of three fine-tunes of a model of 1 GB, written in ten shards; a loopback Hub in a process of its own
(tests/hub/server.py), which takes bytes no faster than `--rate` a second, as a line does. It hashes and stores what it
gets, on the same cores as the merge. Each figure is the best of some rounds, all three taken in each round. Wanted:
publishing adds at most 20 % to the slower of computing and uploading.
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
from typing import TYPE_CHECKING

from machine import describe, pin
from models import LLAMA, make
from options import add_common, finish
from rich.table import Table

if TYPE_CHECKING:
    from surgery.api import ResolvedPlan

SERVER = Path(__file__).resolve().parents[1] / "tests" / "hub" / "server.py"
TOKEN = "hf_a_token_that_may_write"  # which that server knows
ALLOWED = 1.2
RECIPE = """\
surgery: 1
models: {{base: {base}, a: {a}, b: {b}, c: {c}}}
steps:
  merged: {{op: merge.ties, base: base, models: {{a: {each}, b: {each}, c: {each}}}}}
output: {{model: merged, to: "{to}", shard_size: 100MB}}
"""


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_common(parser, name="publish")
    parser.add_argument("--rate", type=float, default=100e6, help="bytes a second that the Hub takes (100e6)")
    parser.add_argument("--repeat", type=int, default=2, help="rounds, of which the best counts (2)")
    args = parser.parse_args()
    machine = describe(pin(args.cores))
    folders = make(LLAMA, args.work)
    rounds = [_round(args.work / "publish", folders, args.rate) for _ in range(args.repeat)]
    best = {name: min(one[name] for one in rounds) for name in rounds[0]}
    ratio = best["both"] / max(best["compute"], best["upload"])
    record = {
        "machine": machine,
        "settings": {"rate": args.rate, "bytes": _size(folders["base"]), "rounds": args.repeat},
        "seconds": {name: round(seconds, 3) for name, seconds in best.items()},
        "rounds": [{name: round(seconds, 3) for name, seconds in one.items()} for one in rounds],
        "both_over_slower": round(ratio, 3),
    }
    missed = [f"both take {ratio:.2f} x the slower, wanted {ALLOWED} at most"] if ratio > ALLOWED else []
    finish(args.name, [_table(best, ratio)], missed, record)


def _round(work: Path, folders: dict[str, Path], rate: float) -> dict[str, float]:
    """Return the seconds of computing into a folder, of uploading that folder, and of both at once."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    seconds = {}
    with _hub(work / "store", rate):
        local = _plan(folders, work, "./local")
        seconds["compute"] = _timed(local.run)
        seconds["upload"] = _timed(lambda: _push(work / "local"))
    with _hub(work / "store", rate):  # an empty one: nothing may be there already
        both = _plan(folders, work, "hub:me/merged")
        seconds["both"] = _timed(both.run)
    return seconds


def _plan(folders: dict[str, Path], work: Path, to: str) -> ResolvedPlan:
    import surgery

    text = RECIPE.format(to=to, each="{weight: 0.5, density: 0.5}", **folders)
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
    command = [sys.executable, str(SERVER), str(folder), "--rate", str(rate)]
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


def _table(best: dict[str, float], ratio: float) -> Table:
    grid = Table("compute s", "upload s", "both s", "both / slower", title="publishing a 1 GB merge")
    grid.add_row(*(f"{best[name]:.2f}" for name in ("compute", "upload", "both")), f"{ratio:.2f}")
    return grid


if __name__ == "__main__":
    os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    main()
