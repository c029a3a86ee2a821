"""Round a checkpoint of 1 GB to int4: surgery alone, after a merge in the same pass, and llm-compressor.

    python benchmarks/quantize.py [--work DIR] [--repeat 3] [--memory 512MiB]

Five programs take turns on inputs in the page cache: surgery quantizes a finished model, merges three, and does both in
one pass; llm-compressor quantizes the same finished model, one and two shards at a time. The best round of each counts.
Then all scales and codes of the two quantized models are compared. Results go to benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse

from checkpoints import stored, warm
from codes import compare
from engines import Run
from environment import LLMCOMPRESSOR, make_environment
from machine import describe, pin
from models import LLAMA, SHAPES, make
from options import add_common, finish
from quantizers import Quantizers
from rounds import Rounds, table

ONE_PASS = 1.3
FASTER = 5.0


def main() -> None:
    """Run the programs, compare the numbers, report."""
    args = _arguments()
    machine = describe(pin(args.cores))
    python = make_environment(args.work, LLMCOMPRESSOR)
    bench = Quantizers(args.work, args.work / "out", make(SHAPES[args.shape], args.work), args.memory, python)
    rounds = _measure(bench, args.repeat)
    found = compare(
        bench.output("int4"), bench.output(rounds.fastest(bench.peers)), stored(bench.models["a"])
    )
    ratios = _ratios(rounds, bench.peers)
    settings = {
        "model": args.shape,
        "repeat": args.repeat,
        "memory": args.memory,
        "peer": LLMCOMPRESSOR.package,
        "peer_pins": LLMCOMPRESSOR.pins,
    }
    record = {"machine": machine, "settings": settings, **rounds.record(), "ratios": ratios}
    missed = _missed(ratios) + ([] if found.same else ["other numbers than llm-compressor's"])
    tables = [table(rounds, "shortest times, highest peaks"), found.table()]
    finish(args.name, tables, missed, {**record, "numbers": found.record()})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Quantize side by side: surgery and llm-compressor.")
    add_common(parser, name="quantize")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the best counts (3)")
    parser.add_argument("--memory", default="512MiB", help="surgery's budget (512MiB)")
    parser.add_argument("--shape", default=LLAMA.name, choices=SHAPES, help="which models (llama-1g)")
    return parser.parse_args()


def _measure(bench: Quantizers, repeat: int) -> Rounds:
    """Run every program in turn, `repeat` times."""
    runs: dict[str, list[Run]] = {name: [] for name in bench.programs}
    for round_ in range(1, repeat + 1):
        for name in bench.programs:
            warm(bench.inputs(name))
            runs[name].append(bench.run(name))
            print(f"{round_}/{repeat} {name}: {runs[name][-1].execution:.2f} s", flush=True)
    return Rounds(runs)


def _ratios(rounds: Rounds, peers: tuple[str, ...]) -> dict[str, float]:
    """Return one pass over its two halves, and the peer's time and memory over ours; its faster variant counts."""
    ours, merge, both = (rounds.best(name) for name in ("int4", "merge", "merge+int4"))
    peer = rounds.best(rounds.fastest(peers))
    return {
        "one_pass_over_two": round(both.execution / (ours.execution + merge.execution), 3),
        "faster_execution": round(peer.execution / ours.execution, 2),
        "faster_process": round(peer.process / ours.process, 2),
        "less_memory": round(peer.peak_anonymous / ours.peak_anonymous, 2),
    }


def _missed(ratios: dict[str, float]) -> list[str]:
    missed = []
    if ratios["one_pass_over_two"] > ONE_PASS:
        missed.append(f"one pass takes {ratios['one_pass_over_two']} x its halves, wanted {ONE_PASS} at most")
    if ratios["faster_execution"] < FASTER:
        missed.append(f"{ratios['faster_execution']} x as fast as llm-compressor, wanted {FASTER} at least")
    return missed


if __name__ == "__main__":
    main()
