"""Draws a plan's steps as SVG, alone or in a page: models on the left, what is written on the right.

columns   a node stands one column after the last thing that it reads; a source just before its first reader
lanes     an edge that passes a column gets a place in it, so that no edge runs through a box
order     in each column by the mean place of the neighbours, swept to and fro (Sugiyama, Tagawa, Toda 1981)
heights   pulled towards the neighbours' mean, never nearer to each other than the gap
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from statistics import fmean
from typing import Final

import networkx as nx

from surgery.plan.summary import Summary
from surgery.recipe.document import clipped
from surgery.tensors import human_bytes

_MARGIN: Final = 24.0
_GAP_X: Final = 72.0
_GAP_Y: Final = 18.0
_LANE: Final = 8.0
_LINE: Final = 17.0
_SWEEPS: Final = 8
_LONGEST: Final = 36  # characters of a line
_TITLE_WIDTH: Final = 7.8  # pixels a character, 13 px bold; text has no other measure here
_TEXT_WIDTH: Final = 6.6

_FONTS: Final = "system-ui, Helvetica, Arial, DejaVu Sans, sans-serif"
_COLOURS: Final = {  # kind -> fill, stroke
    "model": ("#e4effb", "#5a8fce"),
    "step": ("#fdf2dd", "#c79538"),
    "output": ("#e2f4e6", "#4c9b61"),
    "unused": ("#f3f3f3", "#a0a0a0"),
}
_INK: Final = "#1d2733"
_PALE: Final = "#5b6773"
_EDGE: Final = "#8793a1"


@dataclass(slots=True)
class _Cell:
    """A place in a column: a node's box, or the lane of an edge that passes (`lines` is empty then)."""

    column: int
    kind: str = ""
    lines: tuple[str, ...] = ()
    y: float = 0.0
    left: list[_Cell] = field(default_factory=list, repr=False)
    right: list[_Cell] = field(default_factory=list, repr=False)

    @property
    def height(self) -> float:
        return _LINE * len(self.lines) + 16 if self.lines else _LANE

    @property
    def width(self) -> float:
        details = max((len(line) for line in self.lines[1:]), default=0) * _TEXT_WIDTH
        return max(len(self.lines[0]) * _TITLE_WIDTH, details) + 24 if self.lines else 0.0


@dataclass(frozen=True, slots=True)
class _Edge:
    """The cells that an edge goes through, its ends among them."""

    cells: tuple[_Cell, ...]
    base: bool


def draw_svg(graph: nx.DiGraph[str], summary: Summary) -> str:
    """Return the drawing of a plan's graph (`Plan.graph()`) as one SVG document on a light background."""
    columns, edges = _place(graph, summary)
    widths = [max((cell.width for cell in column), default=0.0) for column in columns]
    lefts = [_MARGIN + sum(widths[:i]) + i * _GAP_X for i in range(len(columns))]
    cells = [cell for column in columns for cell in column]
    top = min((cell.y - cell.height / 2 for cell in cells), default=0.0) - _MARGIN
    bottom = max((cell.y + cell.height / 2 for cell in cells), default=0.0) + _MARGIN
    width = sum(widths) + max(len(columns) - 1, 0) * _GAP_X + 2 * _MARGIN
    body = [_path(edge, lefts, widths) for edge in edges]
    body += [_box(cell, lefts[cell.column], widths[cell.column]) for cell in cells if cell.lines]
    return "\n".join([*_head(width, top, bottom - top), *body, "</svg>", ""])


def draw_page(graph: nx.DiGraph[str], summary: Summary, title: str) -> str:
    """Return one self-contained HTML page: the drawing, and tables of models, steps and outputs."""
    tables = [
        _table(
            ("model", "source", "tensors", "size"),
            [(m.name, m.source, f"{m.tensors:,}", human_bytes(m.nbytes)) for m in summary.models],
        ),
        _table(
            ("step", "op", "inputs", "applied", "copied"),
            [(s.name, s.op, ", ".join(s.inputs), f"{s.applied:,}", f"{s.copied:,}") for s in summary.steps],
        ),
        _table(
            ("output", "of", "tensors", "size", "files"),
            [
                (o.name, o.model, f"{o.tensors:,}", human_bytes(o.nbytes), str(o.shards))
                for o in summary.outputs
            ],
        ),
    ]
    warnings = "".join(f"<p>warning: {escape(str(warning))}</p>\n" for warning in summary.warnings)
    totals = f"reads {human_bytes(summary.bytes_read)}, writes {human_bytes(summary.bytes_written)}"
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>\n{_STYLE}</style>\n<h1>{escape(title)}</h1>\n{draw_svg(graph, summary)}"
        f"<p>{totals}, {human_bytes(summary.peak)} of memory at most</p>\n{warnings}{''.join(tables)}</html>\n"
    )


_STYLE: Final = f"""\
body {{ font: 14px {_FONTS}; color: {_INK}; background: #fff; margin: 2em; }}
svg {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; margin: 1em 0; }}
th, td {{ text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid #dfe4ea; }}
"""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}</table>\n"


def _texts(summary: Summary) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return each node's kind and lines, the title first."""
    texts: dict[str, tuple[str, tuple[str, ...]]] = {}
    for m in summary.models:
        texts[m.name] = "model", (m.name, m.source, f"{m.tensors:,} tensors, {human_bytes(m.nbytes)}")
    for s in summary.steps:
        texts[s.name] = "step", (s.name, s.op, f"{s.applied:,} applied, {s.copied:,} copied")
    for o in summary.outputs:
        where = o.to or (o.folder.name if o.folder else "folder not known")
        size = f"{o.tensors:,} tensors, {human_bytes(o.nbytes)}"
        texts[f"-> {o.name}"] = "output", (o.name, where, size)
    return texts


def _place(graph: nx.DiGraph[str], summary: Summary) -> tuple[list[list[_Cell]], list[_Edge]]:
    """Return the columns of cells from top to bottom, placed, and the edges between them."""
    texts, bases = _texts(summary), {(s.base, s.name) for s in summary.steps}
    column_of = _columns(graph)
    columns: list[list[_Cell]] = [[] for _ in range(max(column_of.values(), default=-1) + 1)]
    cells: dict[Hashable, _Cell] = {}
    for name, column in column_of.items():
        kind, lines = texts.get(name, ("unused", (name, "not needed")))
        cells[name] = _Cell(column, kind, tuple(clipped(line, _LONGEST) for line in lines))
        columns[column].append(cells[name])
    edges = []
    for source, target in graph.edges:
        lanes = [_Cell(column) for column in range(column_of[source] + 1, column_of[target])]
        for lane in lanes:
            columns[lane.column].append(lane)
        way = (cells[source], *lanes, cells[target])
        for before, after in pairwise(way):
            before.right.append(after)
            after.left.append(before)
        edges.append(_Edge(way, (source, target) in bases))
    _arrange(columns)
    return columns, edges


def _columns(graph: nx.DiGraph[str]) -> dict[str, int]:
    column_of = {
        name: i for i, names in enumerate(nx.topological_generations(graph)) for name in sorted(names)
    }
    for name in [name for name in column_of if not graph.in_degree(name) and graph.out_degree(name)]:
        column_of[name] = min(column_of[reader] for reader in graph.successors(name)) - 1
    return column_of


def _arrange(columns: list[list[_Cell]]) -> None:
    """Order the columns so that few edges cross, then place the cells."""
    for column in columns:
        _stack(column, [0.0] * len(column))
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        for column in columns if forward else reversed(columns):
            wanted = {id(cell): _wanted(cell, forward) for cell in column}
            if sweep < _SWEEPS // 2:
                column.sort(key=lambda cell: wanted[id(cell)])
            _stack(column, [wanted[id(cell)] for cell in column])


def _wanted(cell: _Cell, forward: bool) -> float:
    neighbours = cell.left if forward else cell.right
    return fmean(other.y for other in neighbours) if neighbours else cell.y


def _stack(column: list[_Cell], wanted: Sequence[float]) -> None:
    """Place cells in order as near to what they want as the gaps allow."""
    at = float("-inf")
    for cell, y in zip(column, wanted, strict=True):
        cell.y = max(y, at + cell.height / 2)
        at = cell.y + cell.height / 2 + _GAP_Y
    if column:
        shift = fmean(y - cell.y for cell, y in zip(column, wanted, strict=True))
        for cell in column:
            cell.y += shift


def _head(width: float, top: float, height: float) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 {top:.1f} {width:.1f} {height:.1f}" font-family="{_FONTS}">',
        f'<rect x="0" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" fill="#ffffff"/>',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{_EDGE}"/></marker></defs>',
    ]


def _path(edge: _Edge, lefts: Sequence[float], widths: Sequence[float]) -> str:
    """Draw an edge: a curve between two columns, a straight line along a lane."""
    start = edge.cells[0]
    parts = [f"M{lefts[start.column] + widths[start.column]:.1f} {start.y:.1f}"]
    for before, cell in pairwise(edge.cells):
        right = lefts[before.column] + widths[before.column]
        left = lefts[cell.column]
        middle = (right + left) / 2
        parts.append(f"C{middle:.1f} {before.y:.1f} {middle:.1f} {cell.y:.1f} {left:.1f} {cell.y:.1f}")
        if not cell.lines:
            parts.append(f"H{lefts[cell.column] + widths[cell.column]:.1f}")
    dashes = ' stroke-dasharray="6 4"' if edge.base else ""
    hint = "<title>base</title>" if edge.base else ""
    return (
        f'<path d="{" ".join(parts)}" fill="none" stroke="{_EDGE}" stroke-width="1.5" '
        f'marker-end="url(#arrow)"{dashes}>{hint}</path>'
    )


def _box(cell: _Cell, left: float, width: float) -> str:
    fill, stroke = _COLOURS[cell.kind]
    top = cell.y - cell.height / 2
    title, *details = cell.lines
    rows = [
        f'<g><rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{cell.height:.1f}" rx="7" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="1.2"/>',
        f'<text x="{left + 12:.1f}" y="{top + 21:.1f}" font-size="13" font-weight="600" fill="{_INK}">'
        f"{escape(title)}</text>",
    ]
    for i, line in enumerate(details, start=1):
        y = top + 21 + _LINE * i
        rows.append(
            f'<text x="{left + 12:.1f}" y="{y:.1f}" font-size="12" fill="{_PALE}">{escape(line)}</text>'
        )
    return "\n".join([*rows, "</g>"])
