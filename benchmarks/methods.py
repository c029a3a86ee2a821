"""All merges of one recipe on the zoo: loss on every domain, and what each takes on larger models.

    python benchmarks/methods.py [--work DIR] [--shape llama-200m] [--methods ties,...] [--write]

`recipes/18-every-merge.yaml` makes a model by every method in one pass over the zoo; `recipes/zoo/evaluate.py` measures
each. Then every method alone merges models of another shape with random weights: seconds and memory. With --write the
table and the picture of docs/merging.md are made again. Results go to benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkpoints import warm
from engines import Run, as_yaml, clear, finished, surgery
from machine import describe, pin
from measure import watch
from models import SHAPES, make
from options import add_common, finish
from rich.table import Table
from rounds import MIB

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "18-every-merge.yaml"
PAGE = ROOT / "docs" / "merging.md"
PICTURE = ROOT / "docs" / "merging.svg"
BEGIN, END = "<!-- scores: made by benchmarks/methods.py -->", "<!-- end of scores -->"
PARENTS = ("base", "code", "prose", "math")
STANDS_FOR = dict(zip(PARENTS, ("base", "a", "b", "c"), strict=True))
DOMAINS = ("code", "prose", "math")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.f0{fill:#4269d0}line,path{stroke:#999}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


@dataclass(frozen=True, slots=True)
class Score:
    """A model's loss on each domain and their mean, nats per byte; None where nothing was timed."""

    op: str
    losses: dict[str, float]
    run: Run | None = None

    def record(self) -> dict[str, object]:
        """Return the score as JSON holds it."""
        return {"op": self.op, "losses": self.losses, "run": asdict(self.run) if self.run else None}


def main() -> None:
    """Merge, measure, time, report."""
    args = _arguments()
    machine = describe(pin(args.cores))
    document = _document()
    wanted = args.methods.split(",") if args.methods else list(document["outputs"])
    losses = _losses(document, wanted, args.work / "methods")
    shape = make(SHAPES[args.shape], args.work)
    scores = {name: Score("", losses[name]) for name in PARENTS}
    for name in wanted:
        run = _timed(document, name, shape, args.work, args.memory)
        scores[name] = Score(document["steps"][document["outputs"][name]["model"]]["op"], losses[name], run)
        print(f"{name}: {losses[name]['mean']:.4f}, {run.execution:.2f} s", flush=True)
    if args.write:
        _write(scores, args.shape)
    record = {name: score.record() for name, score in scores.items()}
    settings = {"shape": args.shape, "memory": args.memory}
    finish(args.name, [_table(scores)], [], {"machine": machine, "settings": settings, "models": record})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="All merges on the zoo, and what they take.")
    add_common(parser, name="methods")
    parser.add_argument("--methods", default="", help="which outputs of the recipe (all)")
    parser.add_argument("--shape", default="llama-200m", choices=SHAPES, help="models to time (llama-200m)")
    parser.add_argument("--memory", default="512MiB", help="surgery's budget (512MiB)")
    parser.add_argument(
        "--write", action="store_true", help="also write the table and picture of docs/merging.md"
    )
    return parser.parse_args()


def _document() -> dict[str, Any]:
    from surgery.recipe.yaml import read_yaml

    document: dict[str, Any] = read_yaml(RECIPE.read_text("utf-8"), str(RECIPE)).data
    return document


def _losses(document: dict[str, Any], wanted: list[str], out: Path) -> dict[str, dict[str, float]]:
    """Return the losses of the parents and of every output, which are made in one pass."""
    import surgery

    sys.path.insert(0, str(ROOT / "recipes" / "zoo"))
    import evaluate

    shutil.rmtree(out, ignore_errors=True)
    outputs = {name: {**document["outputs"][name], "to": str(out / name)} for name in wanted}
    surgery.loads(as_yaml({**document, "outputs": outputs}), folder=RECIPE.parent).run()
    evaluate.quieten()
    folders = {name: RECIPE.parent / "zoo" / name for name in PARENTS} | {name: out / name for name in wanted}
    return {name: dict(evaluate.measure(folder)) for name, folder in folders.items()}


def _timed(document: dict[str, Any], name: str, shape: dict[str, Path], work: Path, memory: str) -> Run:
    """Run one output of the recipe alone, on models of a shape."""
    output = {**document["outputs"][name], "to": str(work / "out" / "method")}
    rest = {key: value for key, value in document.items() if key != "outputs"}
    models = {name: str(shape[STANDS_FOR[name]]) for name in document["models"]}
    recipe = work / "method.yaml"
    recipe.write_text(as_yaml({**rest, "models": models, "output": output}), encoding="utf-8")
    clear(Path(output["to"]))
    warm(list(shape.values()))
    usage = watch(surgery("run", str(recipe), "--memory", memory, "--json"), work)
    return Run(finished(usage)["seconds"], usage.seconds, usage.peak_anonymous, usage.peak_resident)


def _ranked(scores: dict[str, Score]) -> list[tuple[str, Score]]:
    return sorted(scores.items(), key=lambda item: item[1].losses["mean"])


def _table(scores: dict[str, Score]) -> Table:
    grid = Table("model", *DOMAINS, "mean", "seconds", "MiB", title="loss on held-out text, nats per byte")
    for name, score in _ranked(scores):
        run = (
            (f"{score.run.execution:.1f}", f"{score.run.peak_anonymous / MIB:.0f}") if score.run else ("", "")
        )
        grid.add_row(name, *(f"{score.losses[key]:.3f}" for key in (*DOMAINS, "mean")), *run)
    return grid


def _write(scores: dict[str, Score], shape: str) -> None:
    """Put the table into the page, between its marks, and make the picture."""
    lines = ["| | code | prose | arithmetic | mean | s | MiB |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, score in _ranked(scores):
        label = (
            f"`{score.op}`" + ("" if score.op.endswith(f".{name}") else f" ({name})")
            if score.op
            else f"*{name}*"
        )
        run = score.run
        cost = f"{run.execution:.1f} | {run.peak_anonymous / MIB:.0f}" if run else " | "
        lines.append(
            f"| {label} | "
            + " | ".join(f"{score.losses[k]:.3f}" for k in (*DOMAINS, "mean"))
            + f" | {cost} |"
        )
    text = PAGE.read_text("utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")
    PICTURE.write_text(_picture(scores), encoding="utf-8")


def _picture(scores: dict[str, Score]) -> str:
    """Return how far every model's mean loss lies below the base's, as SVG."""
    from surgery.report.charts import bar_chart

    base = scores["base"].losses["mean"]
    gains = {name: 1000 * (base - score.losses["mean"]) for name, score in _ranked(scores) if name != "base"}
    chart = bar_chart(gains, y_label="below the base's mean loss, thousandths of a nat per byte")
    drawing = chart[chart.index("<svg") : chart.index("</div>")]
    start = drawing.index(">") + 1
    return f"{drawing[:start]}\n<style>{STYLE}</style>{drawing[start:]}\n"


if __name__ == "__main__":
    main()
