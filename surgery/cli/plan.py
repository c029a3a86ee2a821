"""`surgery plan`: show what a recipe will do, from headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from surgery.cli.console import Column, pairs, say, say_json, table, warn
from surgery.cli.files import write_new
from surgery.cli.options import json_option, memory_option, out_option, plugin_option, recipe_argument
from surgery.cli.words import count, duration, millions
from surgery.errors import Finding
from surgery.tensors import human_bytes

if TYPE_CHECKING:
    from surgery.api import LoadedRecipe
    from surgery.plan.model import Plan
    from surgery.plan.summary import CalibrationSummary, Summary


@click.command("plan")
@recipe_argument
@out_option
@memory_option
@click.option(
    "--graph",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the steps into an .svg or .html file.",
)
@json_option
@plugin_option
def command(
    recipe: Path,
    out: Path | None,
    memory: int | None,
    graph: Path | None,
    as_json: bool,
    plugins: tuple[Path, ...],
) -> None:
    """Show what a recipe will do, from headers alone.

    Checks all that a run checks, and reports steps, outputs, bytes read and written, memory and an estimate of the
    time. What would stop `surgery run`, but not a run into another folder, is a warning here.
    """
    from surgery.api import load
    from surgery.plan.summary import summarize
    from surgery.schedule.options import RunOptions
    from surgery.schedule.order import order

    if graph is not None and graph.suffix not in (".svg", ".html"):
        raise click.BadParameter(f"`{graph}` is neither .svg nor .html", param_hint="--graph")
    plan, findings = _resolve(load(recipe, plugins=plugins), out)
    try:
        summary = summarize(plan, order(plan, RunOptions(memory=memory)), findings)
        if graph is not None:
            _draw(graph, plan, summary, recipe.name)
    finally:
        plan.close()
    if as_json:
        say_json(summary.record())
    else:
        _show(summary)
        if graph is not None:
            say(f"drawn in {graph}")


def _resolve(loaded: LoadedRecipe, out: Path | None) -> tuple[Plan, list[Finding]]:
    """Return the plan, and what `surgery run` would ask for before it writes."""
    recipe = loaded.recipe
    homeless = [path for path, output in recipe.written.items() if output.to is None and out is None]
    plan = loaded.resolve(out=out, force=True, write=not homeless).plan
    findings = [
        recipe.finding(path, "says not where to write; `surgery run` needs `--out FOLDER` or `to: FOLDER`")
        for path in homeless
    ]
    for path, output in zip(recipe.written, plan.outputs, strict=False):
        folder = output.folder
        stays = output.target is None or output.target.keep
        if stays and folder is not None and folder.is_dir() and any(folder.iterdir()):
            what = f"{folder} exists and is not empty; `surgery run` needs `--force` to replace it"
            findings.append(recipe.finding((*path, "to"), what))
    return plan, findings


def _show(summary: Summary) -> None:
    for finding in summary.warnings:
        warn(str(finding))
    _models(summary)
    if summary.steps:
        _steps(summary)
    _outputs(summary)
    _totals(summary)


def _models(summary: Summary) -> None:
    columns = [Column("model"), Column("source"), *_numbers("tensors", "parameters", "size"), Column("dtype")]
    table(
        columns,
        [
            (
                m.name,
                m.source,
                f"{m.tensors:,}",
                millions(m.parameters),
                human_bytes(m.nbytes),
                ", ".join(m.dtypes),
            )
            for m in summary.models
        ],
    )
    say()


def _steps(summary: Summary) -> None:
    columns = [Column("step"), Column("op"), Column("inputs"), *_numbers("applied", "copied")]
    table(
        columns,
        [
            (step.name, step.op, _inputs(step.base, step.inputs), f"{step.applied:,}", f"{step.copied:,}")
            for step in summary.steps
        ],
    )
    say()


def _inputs(base: str | None, inputs: tuple[str, ...]) -> str:
    return ", ".join(f"{name} (base)" if name == base else name for name in inputs)


def _outputs(summary: Summary) -> None:
    columns = [
        *(Column("output"), Column("of"), Column("folder")),
        *_numbers("tensors", "parameters", "size", "files"),
        Column("dtype"),
    ]
    table(
        columns,
        [
            (
                *(o.name, o.model, o.to or ("(not known)" if o.folder is None else str(o.folder))),
                *(f"{o.tensors:,}", millions(o.parameters), human_bytes(o.nbytes), f"{o.shards:,}"),
                ", ".join(o.dtypes),
            )
            for o in summary.outputs
        ],
    )
    say()


def _totals(summary: Summary) -> None:
    pairs(
        [
            ("reads", human_bytes(summary.bytes_read)),
            ("writes", human_bytes(summary.bytes_written)),
            (
                "memory",
                f"{human_bytes(summary.peak)} at most with {count(summary.workers, 'worker')}, "
                f"of {human_bytes(summary.budget)} allowed",
            ),
            ("time", f"{duration(summary.seconds)}, an estimate: the bytes moved at 1 GB/s"),
            *(("calibration", _calibration(text)) for text in summary.calibrations),
        ]
    )


def _calibration(text: CalibrationSummary) -> str:
    """Say what runs before the first tensor is written; it takes longer than the estimate of the time."""
    disk = f"; {human_bytes(text.disk)} of disk meanwhile" if text.disk else ""
    return (
        f"{text.step} runs its model on {text.samples} × {text.length} tokens first, a block of at most "
        f"{human_bytes(text.block)} at a time{disk}"
    )


def _numbers(*names: str) -> list[Column]:
    return [Column(name, right=True) for name in names]


def _draw(file: Path, plan: Plan, summary: Summary, title: str) -> None:
    from surgery.plan.drawing import draw_page, draw_svg

    text = (
        draw_svg(plan.graph(), summary) if file.suffix == ".svg" else draw_page(plan.graph(), summary, title)
    )
    write_new(file, text, force=True)
