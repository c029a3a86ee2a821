"""Every method that mergekit has, from one mergekit file through both tools: seconds, memory, ratios.

    python benchmarks/catalogue.py [--work DIR] [--methods slerp,della,...] [--shape llama-1g] [--memory 512MiB]

surgery reads mergekit's own document (`surgery run FILE --out DIR`). mergekit computes in bfloat16, as its users
write and as it is fastest; inputs are in the page cache, the two take turns, once each unless --repeat says more.
Whether both give the same numbers is `mergekit_parity.py`'s question. Results go to benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import warm
from engines import HERE, Run, as_yaml, clear, finished, surgery
from environment import MERGEKIT, make_environment
from machine import describe, pin
from measure import watch
from models import SHAPES, make
from options import add_common, finish
from rich.table import Table
from rounds import MIB, Rounds

FASTER, LESS_MEMORY = 5.0, 10.0
HALF = {"weight": 1.0, "density": 0.5}
# by method: what every model is given, what the step is given, how many models besides the base (0: no base at all)
METHODS: dict[str, tuple[dict[str, float], dict[str, Any], int]] = {
    "linear": ({"weight": 1.0}, {}, 0),
    "karcher": ({}, {}, 0),
    "multislerp": ({"weight": 1.0}, {}, 0),
    "slerp": ({}, {"t": 0.4}, 1),
    "nuslerp": ({"weight": 1.0}, {}, 2),
    "nearswap": ({}, {"t": 0.001}, 1),
    "arcee_fusion": ({}, {}, 1),
    "task_arithmetic": ({"weight": 0.5}, {}, 3),
    "ties": (HALF, {}, 3),
    "dare_linear": (HALF, {}, 3),
    "dare_ties": (HALF, {}, 3),
    "della": ({**HALF, "epsilon": 0.1}, {}, 3),
    "della_linear": ({**HALF, "epsilon": 0.1}, {}, 3),
    "breadcrumbs": ({**HALF, "gamma": 0.01}, {}, 3),
    "breadcrumbs_ties": ({**HALF, "gamma": 0.01}, {}, 3),
    "sce": ({}, {"select_topk": 0.5}, 3),
    "ram": ({}, {}, 3),
    "ramplus_tl": ({}, {}, 3),
    "model_stock": ({}, {}, 3),
}


@dataclass(frozen=True, slots=True)
class Both:
    """What every run shares: folders, models by name, surgery's budget, mergekit's interpreter."""

    work: Path
    models: dict[str, Path]
    memory: str
    mergekit: Path

    def inputs(self, method: str) -> dict[str, Path]:
        """Return the models that a method reads, by name."""
        count = METHODS[method][2]
        names = ["base", "a", "b", "c"][: count + 1] if count else ["a", "b", "c"]
        return {name: self.models[name] for name in names}

    def document(self, method: str) -> Path:
        """Write mergekit's document for a method."""
        each, step, count = METHODS[method]
        models = [
            {"model": str(path), "parameters": each}
            for name, path in self.inputs(method).items()
            if name != "base"
        ]
        document: dict[str, Any] = {"merge_method": method, "models": models, "dtype": "bfloat16"}
        document |= {"parameters": step} if step else {}
        document |= {"base_model": str(self.models["base"])} if count else {}
        path = self.work / f"catalogue-{method}.yaml"
        path.write_text(as_yaml(document), encoding="utf-8")
        return path

    def run(self, method: str, tool: str) -> Run:
        """Run one tool once, on an idle disk and with no earlier output in its way."""
        out = self.work / "out" / f"catalogue-{tool}"
        document = self.document(method)
        clear(out)
        warm(list(self.inputs(method).values()))
        if tool == "surgery":
            command = surgery("run", str(document), "--out", str(out), "--memory", self.memory, "--json")
        else:
            command = [str(self.mergekit), str(HERE / "peer.py"), str(document), str(out)]
        usage = watch(command, self.work)
        return Run(finished(usage)["seconds"], usage.seconds, usage.peak_anonymous, usage.peak_resident)


def main() -> None:
    """Run every method through both, and report."""
    args = _arguments()
    machine = describe(pin(args.cores))
    both = Both(
        args.work, make(SHAPES[args.shape], args.work), args.memory, make_environment(args.work, MERGEKIT)
    )
    outcomes = dict(_outcomes(both, args.methods.split(","), args.repeat))
    settings = {
        "model": args.shape,
        "repeat": args.repeat,
        "memory": args.memory,
        "mergekit": MERGEKIT.package,
    }
    record = {name: {**rounds.record(), "ratios": _ratios(rounds)} for name, rounds in outcomes.items()}
    missed = [words for name, rounds in outcomes.items() for words in _missed(name, _ratios(rounds))]
    finish(
        args.name, [_table(outcomes)], missed, {"machine": machine, "settings": settings, "methods": record}
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Every method of mergekit's, side by side.")
    add_common(parser, name="catalogue")
    parser.add_argument("--methods", default=",".join(METHODS), help="which methods (all)")
    parser.add_argument("--repeat", type=int, default=1, help="rounds; the best counts (1)")
    parser.add_argument("--memory", default="512MiB", help="surgery's budget (512MiB)")
    parser.add_argument("--shape", default="llama-1g", choices=SHAPES, help="which models (llama-1g)")
    return parser.parse_args()


def _outcomes(both: Both, methods: list[str], repeat: int) -> Iterator[tuple[str, Rounds]]:
    for method in methods:
        runs: dict[str, list[Run]] = {"surgery": [], "mergekit": []}
        for _ in range(repeat):
            for tool, done in runs.items():
                done.append(both.run(method, tool))
                print(f"{method} {tool}: {done[-1].execution:.2f} s", flush=True)
        yield method, Rounds(runs)


def _ratios(rounds: Rounds) -> dict[str, float]:
    ours, theirs = rounds.best("surgery"), rounds.best("mergekit")
    return {
        "faster_execution": round(theirs.execution / ours.execution, 2),
        "faster_process": round(theirs.process / ours.process, 2),
        "less_memory": round(theirs.peak_anonymous / ours.peak_anonymous, 2),
    }


def _missed(method: str, ratios: dict[str, float]) -> list[str]:
    missed = []
    if ratios["faster_execution"] < FASTER:
        missed.append(
            f"{method}: {ratios['faster_execution']} x as fast as mergekit, wanted {FASTER:g} at least"
        )
    if ratios["less_memory"] < LESS_MEMORY:
        missed.append(
            f"{method}: mergekit's memory is {ratios['less_memory']} x ours, wanted {LESS_MEMORY:g} at least"
        )
    return missed


def _table(outcomes: dict[str, Rounds]) -> Table:
    grid = Table(
        "method", "surgery s", "mergekit s", "faster", "surgery MiB", "mergekit MiB", "less", title="one file"
    )
    for name, rounds in outcomes.items():
        ours, theirs, ratios = rounds.best("surgery"), rounds.best("mergekit"), _ratios(rounds)
        seconds = f"{ours.execution:.2f}", f"{theirs.execution:.2f}", f"{ratios['faster_execution']:.1f}"
        memory = (f"{run.peak_anonymous / MIB:.0f}" for run in (ours, theirs))
        grid.add_row(name, *seconds, *memory, f"{ratios['less_memory']:.1f}")
    return grid


if __name__ == "__main__":
    main()
