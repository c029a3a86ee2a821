"""Charts as inline SVG: lines, bars, a heat map. No script; colours come from the page (`page.STYLE`).

Names and labels may be anything a weight file holds: all text is escaped. Values that are not finite are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Final

from surgery.report.axes import CHARACTER, Scale, clip, linear, logarithmic, number, safe

COLOURS: Final = 8  # classes c0 to c7 of the page's style
_WIDTH: Final = 720.0
_DOTS: Final = 150  # points of a series up to which each gets a dot with its numbers
_LONGEST: Final = 34  # characters of a name beside a bar or a row
_CELLS: Final = 34.0  # pixels: the widest cell of a heat map

Points = Sequence[tuple[float, float]]


def line_chart(
    series: Mapping[str, Points], *, x_label: str, y_label: str, log_y: bool = False, zero_y: bool = False
) -> str:
    """Return a chart of lines over x, one for each name, as SVG.

    log_y   the y axis is logarithmic; what is not positive is left out
    zero_y  the y axis begins at zero
    """
    kept = {name: [point for point in points if _drawn(point, log_y)] for name, points in series.items()}
    everything = list(chain.from_iterable(kept.values()))
    if not everything:
        return _nothing()
    legend, legend_height = _legend(list(kept)) if len(kept) > 1 else ("", 0.0)
    top, bottom = legend_height + 14, legend_height + 254
    ys = [y for _, y in everything]
    y_scale = logarithmic(ys, bottom, top) if log_y else linear(ys, bottom, top, zero=zero_y)
    left = _margin(y_scale)
    x_scale = linear([x for x, _ in everything], left, _WIDTH - 16)
    body = [legend, _y_axis(y_scale, left, _WIDTH - 16, y_label), _x_axis(x_scale, bottom, top, x_label)]
    body += [_line(i, name, points, x_scale, y_scale) for i, (name, points) in enumerate(kept.items())]
    return _svg(bottom + 46, body)


def bar_chart(values: Mapping[str, float], *, y_label: str) -> str:
    """Return horizontal bars, one for each name, as SVG; `y_label` says what their lengths are."""
    kept = {name: value for name, value in values.items() if math.isfinite(value)}
    if not kept:
        return _nothing()
    left = 16 + CHARACTER * min(max(map(len, kept)), _LONGEST)
    room = CHARACTER * max(len(number(value)) for value in kept.values()) + 8
    scale = linear(list(kept.values()), left, _WIDTH - room, zero=True)
    bottom = 8 + 22.0 * len(kept)
    body = [_x_axis(scale, bottom, 4, y_label)]
    body += [_bar(name, value, scale, 8 + 22.0 * i) for i, (name, value) in enumerate(kept.items())]
    return _svg(bottom + 46, body)


def heatmap(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Mapping[tuple[str, str], float],
    *,
    label: str,
    log: bool = False,
) -> str:
    """Return a grid of cells as SVG, the darker the larger; pairs without a value stay empty.

    log   shades follow the logarithm; what is not positive has the palest shade
    """
    wanted = {(row, column) for row in rows for column in columns}
    finite = {at: value for at, value in values.items() if at in wanted and math.isfinite(value)}
    if not finite:
        return _nothing()
    shade, low, high = _shades(list(finite.values()), log)
    left = 16 + CHARACTER * min(max(map(len, rows)), _LONGEST)
    cell = min(_CELLS, (_WIDTH - left - 16) / len(columns))
    height = min(max(cell, 16.0), 22.0)
    body = [_scale_legend(left, label, low, high)]
    for i, row in enumerate(rows):
        y = 44 + i * height
        body.append(_text(left - 8, y + height / 2 + 4, clip(row, _LONGEST), "end", row))
        for j, column in enumerate(columns):
            value = finite.get((row, column))
            fill = (
                'class="none"'
                if value is None
                else f'class="heat" fill-opacity="{0.06 + 0.94 * shade(value):.3f}"'
            )
            told = f"{row}, {column}: {'-' if value is None else number(value)}"
            body.append(
                f'<rect x="{left + j * cell + 0.5:.1f}" y="{y + 0.5:.1f}" width="{max(cell - 1, 0.5):.1f}" '
                f'height="{height - 1:.1f}" {fill}><title>{safe(told)}</title></rect>'
            )
    foot, depth = _column_names(columns, left, cell, 44 + len(rows) * height)
    return _svg(44 + len(rows) * height + depth, [*body, *foot])


def _drawn(point: tuple[float, float], log: bool) -> bool:
    return all(map(math.isfinite, point)) and (not log or point[1] > 0)


def _nothing() -> str:
    return '<p class="empty">nothing to draw</p>'


def _svg(height: float, body: Sequence[str]) -> str:
    inner = "\n".join(part for part in body if part)
    return (
        f'<div class="chart"><svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" '
        f'xmlns="http://www.w3.org/2000/svg">\n{inner}\n</svg></div>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", title: str = "", extra: str = "") -> str:
    tip = f"<title>{safe(title)}</title>" if title and title != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{safe(text)}{tip}</text>'


def _margin(scale: Scale) -> float:
    """Return the room at the left of a y axis: its title, its longest label, gaps."""
    return 34 + CHARACTER * max(len(scale.label(tick)) for tick in scale.ticks)


def _y_axis(scale: Scale, left: float, right: float, label: str) -> str:
    parts = []
    for tick in scale.ticks:
        y = scale.at(tick)
        parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
        parts.append(_text(left - 6, y + 4, scale.label(tick), "end"))
    middle = (scale.start + scale.end) / 2
    turned = f' class="axis" transform="rotate(-90 12 {middle:.1f})"'
    return "\n".join([*parts, _text(12, middle, label, "middle", extra=turned)])


def _x_axis(scale: Scale, bottom: float, top: float, label: str) -> str:
    parts = [f'<path class="line" d="M{scale.start:.1f} {bottom:.1f}H{scale.end:.1f}"/>']
    for tick in scale.ticks:
        x = scale.at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom + 4:.1f}V{top:.1f}"/>')
        parts.append(_text(x, bottom + 17, scale.label(tick), "middle"))
    middle = (scale.start + scale.end) / 2
    return "\n".join([*parts, _text(middle, bottom + 37, label, "middle", extra=' class="axis"')])


def _line(index: int, name: str, points: Points, x_scale: Scale, y_scale: Scale) -> str:
    if not points:
        return ""
    places = [(x_scale.at(x), y_scale.at(y)) for x, y in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [f'<path class="curve c{index % COLOURS}" d="{path}"><title>{safe(name)}</title></path>']
    if len(points) <= _DOTS:
        for (px, py), (x, y) in zip(places, points, strict=True):
            told = safe(f"{name}: {number(x)}, {number(y)}")
            parts.append(
                f'<circle class="f{index % COLOURS}" cx="{px:.1f}" cy="{py:.1f}" r="2.5">'
                f"<title>{told}</title></circle>"
            )
    return "\n".join(parts)


def _bar(name: str, value: float, scale: Scale, y: float) -> str:
    zero, end = scale.at(0.0), scale.at(value)
    told = safe(f"{name}: {number(value)}")
    return "\n".join(
        [
            _text(scale.start - 8, y + 14, clip(name, _LONGEST), "end", name),
            f'<rect class="f0" x="{min(zero, end):.1f}" y="{y + 3:.1f}" width="{abs(end - zero):.1f}" '
            f'height="16"><title>{told}</title></rect>',
            _text(max(zero, end) + 5, y + 15, number(value)),
        ]
    )


def _legend(names: Sequence[str]) -> tuple[str, float]:
    """Return the names with their colours, in as many lines as they need, and the height of that."""
    parts, x, y = [], 16.0, 16.0
    for index, name in enumerate(names):
        shown = clip(name, 60)
        width = 24 + CHARACTER * len(shown) + 16
        if x > 16 and x + width > _WIDTH:
            x, y = 16.0, y + 18
        parts.append(f'<rect class="f{index % COLOURS}" x="{x:.1f}" y="{y - 9:.1f}" width="14" height="10"/>')
        parts.append(_text(x + 20, y, shown, title=name))
        x += width
    return "\n".join(parts), y + 6


def _shades(values: Sequence[float], log: bool) -> tuple[Callable[[float], float], float, float]:
    """Return a function from values to shades 0..1, and the values at its ends."""
    positive = [value for value in values if value > 0]
    if log and positive:
        low, high = min(positive), max(positive)
        span = math.log(high / low) or 1.0
        return (lambda value: math.log(value / low) / span if value > 0 else 0.0), low, high
    low, high = min(values), max(values)
    width = (high - low) or 1.0
    return (lambda value: (value - low) / width), low, high


def _scale_legend(left: float, label: str, low: float, high: float) -> str:
    """Return the label, and the shades from the lowest to the highest value."""
    steps = [
        f'<rect class="heat" x="{left + i * 10:.1f}" y="22" width="10" height="8" '
        f'fill-opacity="{0.06 + 0.94 * i / 11:.3f}"/>'
        for i in range(12)
    ]
    ends = f"{number(low)} to {number(high)}"
    return "\n".join([_text(left, 14, label, extra=' class="axis"'), *steps, _text(left + 128, 30, ends)])


def _column_names(columns: Sequence[str], left: float, cell: float, y: float) -> tuple[list[str], float]:
    """Return the columns' names below a grid and the room they take: level when they fit, else slanted."""
    longest = max(map(len, columns))
    level = longest <= 4
    every = max(1, math.ceil((CHARACTER * longest + 6 if level else 14) / cell))
    parts = []
    for j in range(0, len(columns), every):
        x = left + (j + 0.5) * cell
        shown = clip(columns[j], _LONGEST)
        if level:
            parts.append(_text(x, y + 15, shown, "middle"))
        else:
            turned = f' transform="rotate(-45 {x:.1f} {y + 12:.1f})"'
            parts.append(_text(x, y + 12, shown, "end", columns[j], turned))
    return parts, 24 if level else 20 + 0.72 * CHARACTER * min(longest, _LONGEST)
