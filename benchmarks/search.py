"""Whether a search finds a better merge than anybody has before it, and what a candidate costs beside its evaluation.

    python benchmarks/search.py [--cores N] [--trials N]

The zoo's three fine-tunes are merged by task arithmetic with twelve numbers: for each a weight with four points over
depth. CMA-ES proposes, loss on text decides. The text is the zoo's held-out text, which no model was trained on; the
search sees the first half of each file, and the final scores are on the second half, which it never sees: other modules
of code, later pages of the novel, other sums. Winner and baselines are scored there once, at the end.

A second, shorter search over TIES measures the cost of candidates whose tensors take two passes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from machine import describe, pin
from options import add_common, finish
from rich.table import Table

ZOO = Path(__file__).resolve().parents[1] / "recipes" / "zoo"
TRIALS = 60
TIES_TRIALS = 6
MOST_OVER = 1.3  # what a candidate may take, in evaluations

HOLE = "${search: {range: [0, 1.2], by: layers(4)}}"
RECIPE = """\
surgery: 1
models: {{base: {zoo}/base, code: {zoo}/code, prose: {zoo}/prose, math: {zoo}/math}}
steps:
  merged:
    op: {op}
    base: base
    models:
      code: {{weight: {hole}{more}}}
      prose: {{weight: {hole}{more}}}
      math: {{weight: {hole}{more}}}
search:
  sampler: evolve.cmaes
  evaluator:
    name: eval.perplexity
    text: [{zoo}/heldout/code.txt, {zoo}/heldout/prose.txt, {zoo}/heldout/math.txt]
    part: [0, 0.5]
    length: 256
  held_out: {{part: [0.5, 1]}}
  trials: {trials}
output: {{model: merged, dtype: bfloat16}}
"""


def main() -> None:
    """Run both searches and report."""
    parser = argparse.ArgumentParser(
        description="A search over twelve numbers: what it finds and what it costs."
    )
    add_common(parser, name="search")
    parser.add_argument(
        "--trials", type=int, default=TRIALS, help=f"candidates besides the baselines ({TRIALS})"
    )
    args = parser.parse_args()
    machine = describe(pin(args.cores))
    import torch

    torch.set_num_threads(args.cores)
    found = _search(args.work / "search", "merge.task_arithmetic", args.trials)
    ties = _search(args.work / "search-ties", "merge.ties", TIES_TRIALS, ", density: 0.5")
    record = {
        "machine": machine,
        "settings": {"holes": len(found["genes"]), "trials": found["trials"], "sampler": found["sampler"]},
        "winner": {key: found["winner"][key] for key in ("name", "score", "parts", "genome")},
        "search_scores": {trial["name"]: trial["score"] for trial in found["baselines"]},
        "held_out": {one["name"]: {"score": one["score"], **one["parts"]} for one in found["held_out"]},
        "beaten_by": found["beaten_by"],
        "seconds": found["seconds"],
        "seconds_ties": ties["seconds"],
        "wall_seconds": found["wall"],
    }
    finish(args.name, [_scores(record), _costs(record)], _missed(record), record)


def _search(folder: Path, op: str, trials: int, more: str = "") -> dict[str, Any]:
    """Carry one search out in an empty folder and return its record."""
    from surgery import RunOptions
    from surgery.search.run import search
    from surgery.search.task import load_task

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    recipe = folder / "search.yaml"
    recipe.write_text(RECIPE.format(zoo=ZOO, op=op, hole=HOLE, more=more, trials=trials), encoding="utf-8")
    return search(load_task(recipe), RunOptions(device="cpu"), out=folder / "found").record()


def _missed(record: dict[str, Any]) -> list[str]:
    missed = [f"the winner is no better than {name} on held-out text" for name in record["beaten_by"]]
    for name in ("seconds", "seconds_ties"):
        over = record[name]["over_evaluation"]
        if over > MOST_OVER:
            missed.append(f"{name}: a candidate takes {over:.2f} evaluations, wanted {MOST_OVER} at most")
    return missed


def _scores(record: dict[str, Any]) -> Table:
    names = ("score", "code", "prose", "math")
    grid = Table("candidate", *names, title="loss on text that the search never saw, nats per byte")
    for name, scores in record["held_out"].items():
        grid.add_row(name, *(f"{scores[one]:.4f}" for one in names))
    return grid


def _costs(record: dict[str, Any]) -> Table:
    grid = Table(
        "op", "plan", "weights", "evaluate", "over evaluation", title="median seconds of a candidate"
    )
    for op, key in (("merge.task_arithmetic", "seconds"), ("merge.ties", "seconds_ties")):
        cost = record[key]
        times = (f"{cost[kind]:.3f}" for kind in ("plan", "weights", "evaluate"))
        grid.add_row(op, *times, f"{cost['over_evaluation']:.3f}")
    return grid


if __name__ == "__main__":
    main()
