"""`surgery diff`: compare two checkpoints tensor by tensor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from surgery.cli.console import Column, say, say_json, table
from surgery.cli.options import json_option, plugin_option
from surgery.cli.registry import host_with
from surgery.cli.sources import opened
from surgery.cli.words import count

if TYPE_CHECKING:
    from surgery.report.compare import Difference, Kind
    from surgery.tensors import TensorSpec

DIFFERENT: Final = 3
_WORDS: Final[dict[Kind, str]] = {
    "same": "the same",
    "values": "with other values",
    "dtype": "with another dtype",
    "shape": "with another shape",
    "only in a": "only in a",
    "only in b": "only in b",
}


@click.command("diff")
@click.argument("a")
@click.argument("b")
@click.option(
    "--top", type=click.IntRange(min=0), default=20, show_default=True, help="Tensors to list; 0 for all."
)
@click.option("--exit-code", is_flag=True, help=f"Exit with {DIFFERENT} when the checkpoints differ.")
@json_option
@plugin_option
def command(a: str, b: str, top: int, exit_code: bool, as_json: bool, plugins: tuple[Path, ...]) -> None:
    """Compare two checkpoints tensor by tensor.

    A and B are what a recipe may name as a source. Tensors that only one has or that differ in shape come first, then
    those that differ most: ‖a - b‖ / ‖a‖. Reads every byte of both, in bounded memory.
    """
    from surgery.report.compare import compare

    host = host_with(plugins)
    with opened(a, host) as first, opened(b, host) as second:
        differences = sorted(compare(first, second), key=lambda one: one.rank, reverse=True)
    differing = [one for one in differences if one.kind != "same"]
    if as_json:
        say_json(_record(a, b, differences))
    elif differing:
        _show(differing, top)
        say()
        say(_verdict(differences))
    else:
        say(f"identical: {count(len(differences), 'tensor')} with the same names, shapes, dtypes and bytes")
    if exit_code and differing:
        raise click.exceptions.Exit(DIFFERENT)


def _record(a: str, b: str, differences: list[Difference]) -> dict[str, Any]:
    from surgery.report.compare import totals

    return {
        "a": a,
        "b": b,
        "identical": all(one.kind == "same" for one in differences),
        "counts": dict(totals(differences)),
        "tensors": [one.record() for one in differences],
    }


def _show(differing: list[Difference], top: int) -> None:
    columns = [Column("tensor"), Column("difference")]
    columns += [Column(name, right=True) for name in ("relative", "max", "mean", "elements")]
    shown = differing[: top or None]
    table(columns, [_row(one) for one in shown])
    if len(shown) < len(differing):
        say(f"and {count(len(differing) - len(shown), 'tensor')} more; --top 0 lists all")


def _row(one: Difference) -> tuple[str, ...]:
    numbers = one.numbers
    if numbers is None:
        return one.name, _what(one), "", "", "", ""
    stats = (_number(value) for value in (numbers.relative, numbers.max_abs, numbers.mean_abs))
    return one.name, _what(one), *stats, _percent(numbers.share)


def _what(one: Difference) -> str:
    if one.kind == "shape":
        return f"shape {_shape(one.a)} and {_shape(one.b)}"
    if one.kind == "dtype" and one.a and one.b:
        return f"dtype {one.a.dtype} and {one.b.dtype}"
    nonfinite = one.numbers.nonfinite if one.numbers else 0
    return f"{one.kind}, {count(nonfinite, 'gap')} not finite" if nonfinite else one.kind


def _shape(spec: TensorSpec | None) -> str:
    return " x ".join(map(str, spec.shape)) or "scalar" if spec else ""


def _number(value: float | None) -> str:
    return "" if value is None else "inf" if value == math.inf else f"{value:.3g}"


def _percent(share: float) -> str:
    """Return a share; what is not nothing never reads as 0 %, what is not all never as 100 %."""
    if 0 < share < 0.0001:
        return "< 0.01 %"
    return "> 99.99 %" if 0.9999 < share < 1 else f"{share:.2%}".replace("%", " %")


def _verdict(differences: list[Difference]) -> str:
    from surgery.report.compare import totals

    counts = totals(differences)
    parts = [f"{counts[kind]:,} {words}" for kind, words in _WORDS.items() if kind in counts]
    return f"{count(len(differences), 'tensor')}: {', '.join(parts)}"
