"""Merge three checkpoints of 1 GB side by side: the floor, surgery, mergekit; then compare the numbers.

    python benchmarks/merge.py [--work DIR] [--methods linear,ties] [--repeat 3] [--memory 512MiB]

Every round runs each contestant once, in turn, on inputs in the page cache, with the disk idle at the start;
the best round of each counts. Results go to the screen and to benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from checkpoints import stored, warm
from compare import Differences, Trim, compare
from engines import DENSITY, MERGEKIT_DTYPES, METHODS, Bench, Run
from environment import MERGEKIT, make_environment
from machine import describe, pin
from models import LLAMA, SHAPES, make
from options import add_common, finish
from outcome import Outcome, table


def main() -> None:
    """Run the methods and report."""
    args = _arguments()
    cores = pin(args.cores)
    machine = describe(cores)
    bench = Bench(
        work=args.work,
        out=args.out or args.work / "out",
        models=make(SHAPES[args.shape], args.work),
        memory=args.memory,
        mergekit=make_environment(args.work, MERGEKIT),
    )
    outcomes = [_measure(bench, method, args.repeat) for method in args.methods.split(",")]
    settings = {
        "model": args.shape,
        "repeat": args.repeat,
        "memory": args.memory,
        "mergekit": MERGEKIT.package,
        "output": "another folder (--out)" if args.out else "the disk of the inputs",
    }
    methods = {outcome.method: outcome.record() for outcome in outcomes}
    missed = [f"{outcome.method}: {words}" for outcome in outcomes for words in outcome.missed()]
    finish(args.name, table(outcomes), missed, {"machine": machine, "settings": settings, "methods": methods})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Merge side by side: the floor, surgery, mergekit.")
    add_common(parser, name="merge")
    parser.add_argument("--out", type=Path, help="folder for the outputs, /dev/shm/bench for one (WORK/out)")
    parser.add_argument("--methods", default=",".join(METHODS), help="which of linear,ties (both)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the best counts (3)")
    parser.add_argument("--memory", default="512MiB", help="surgery's budget (512MiB)")
    parser.add_argument("--shape", default=LLAMA.name, choices=SHAPES, help="which models (llama-1g)")
    return parser.parse_args()


def _measure(bench: Bench, method: str, repeat: int) -> Outcome:
    """Run every contestant in turn, `repeat` times, then compare what the last round wrote."""
    contestants = ["floor", "surgery", *MERGEKIT_DTYPES[method]]
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for round_ in range(1, repeat + 1):
        for name in contestants:
            warm(bench.inputs(method))
            runs[name].append(bench.run(method, name))
            print(f"{method} {round_}/{repeat} {name}: {runs[name][-1].execution:.2f} s", flush=True)
    differences = {name: _differences(bench, method, name) for name in MERGEKIT_DTYPES[method]}
    return Outcome(method, runs, differences)


def _differences(bench: Bench, method: str, variant: str) -> Differences:
    trim = None
    if method == "ties":
        base, *fine_tunes = (stored(folder) for folder in bench.inputs(method))
        trim = Trim(base, tuple(fine_tunes), DENSITY)
    return compare(bench.output(method, "surgery"), bench.output(method, variant), trim)


if __name__ == "__main__":
    main()
