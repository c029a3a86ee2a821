"""The parts of an output's page: summary, time, sizes, change, recipe."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any, Final

from surgery.report.axes import number, safe
from surgery.report.change import Change, module_of
from surgery.report.charts import bar_chart, heatmap, line_chart
from surgery.report.noted import Row
from surgery.report.page import Section, listing, table
from surgery.tensors import TensorInfo, human_bytes

MIB: Final = 1 << 20
_UNITS: Final = (("GiB", 1 << 30), ("MiB", MIB), ("KiB", 1 << 10), ("bytes", 1))
_POINTS: Final = 240  # of a line: neighbouring samples are taken together
_LISTED: Final = 20  # tensors that a table lists


def summary(
    manifest: Mapping[str, Any], report: Mapping[str, Any], infos: Mapping[str, TensorInfo]
) -> Section:
    """Return what was made, by what, in which time."""
    specs = [info.spec for info in infos.values()]
    rows = [
        ("output", str(manifest.get("output", ""))),
        ("tensors", f"{len(specs):,}"),
        ("numbers stored", f"{sum(spec.numel for spec in specs):,}"),
        ("size", human_bytes(sum(spec.nbytes for spec in specs))),
        ("seed", str(manifest.get("seed", ""))),
        *_run_rows(report),
    ]
    body = table(("", ""), rows)
    body += "<h3>Models</h3>" + table(("name", "source"), _model_rows(manifest))
    steps = _mapping(manifest, "steps")
    if steps:
        listed = [
            (name, str(step.get("op", "")), str(step.get("version", ""))) for name, step in steps.items()
        ]
        body += "<h3>Steps</h3>" + table(("step", "op", "version"), listed)
    for warning in report.get("warnings", ()):
        told = ": ".join(str(warning[key]) for key in ("path", "what") if warning.get(key))
        body += f'<p class="note">warning: {safe(told)}</p>'
    return Section("Summary", body)


def over_time(report: Mapping[str, Any]) -> Section:
    """Return throughput and memory over the time of the run."""
    samples = report.get("samples") or {}
    columns = [samples.get(key, []) for key in ("seconds", "read", "written", "rss")]
    rows = list(zip(*columns, strict=False))
    if len(rows) < 3:
        return Section("Over time", '<p class="note">The run was too short to be sampled.</p>')
    every = math.ceil(len(rows) / _POINTS)
    rows = [*rows[:-1:every], rows[-1]]
    rates: dict[str, list[tuple[float, float]]] = {"read": [], "written": []}
    for before, after in pairwise(rows):
        seconds = max(after[0] - before[0], 1e-9)
        for key, column in (("read", 1), ("written", 2)):
            rates[key].append(((before[0] + after[0]) / 2, (after[column] - before[column]) / seconds / MIB))
    memory = {"resident memory": [(row[0], row[3] / MIB) for row in rows]}
    note = ""
    if report.get("processes", 1) > 1:
        note = f'<p class="note">The first of {report["processes"]} processes.</p>'
    rate_chart = line_chart(rates, x_label="seconds", y_label="MiB/s", zero_y=True)
    memory_chart = line_chart(memory, x_label="seconds", y_label="MiB", zero_y=True)
    body = f"{note}<h3>Throughput</h3>{rate_chart}<h3>Resident memory</h3>{memory_chart}"
    return Section("Over time", body)


def sizes(infos: Mapping[str, TensorInfo]) -> Section:
    """Return the bytes of each dtype and of each module."""
    by_dtype: dict[str, float] = defaultdict(float)
    by_module: dict[str, float] = defaultdict(float)
    for info in infos.values():
        by_dtype[info.spec.dtype] += info.spec.nbytes
        by_module[module_of(info)] += info.spec.nbytes
    body = f"<h3>By dtype</h3>{_bytes_chart(by_dtype)}"
    body += f"<h3>By module, over all layers</h3>{_bytes_chart(by_module)}"
    return Section("Sizes", body)


def change(found: Sequence[Change], missing: Iterable[str]) -> Section:
    """Return how far tensors are from those that they descend from: by layer and module, and the farthest ones.

    missing   sentences that say what could not be compared
    """
    said = "".join(f'<p class="note">{safe(sentence)}</p>' for sentence in missing)
    if not found:
        return Section(
            "Change", said or '<p class="note">No tensor of it can be compared with one of a source.</p>'
        )
    encoded = sum(one.encoded for one in found)
    what = "‖out − source‖ / ‖source‖ of each tensor; the source is the base, or the first model."
    if encoded:
        what += f" {encoded:,} tensors are quantized: theirs is the error of what is stored."
    same = sum(one.relative == 0 for one in found)
    what += f" {same:,} of {len(found):,} tensors have not changed."
    body = f"<p>{safe(what)}</p>{said}{_by_layer(found)}"
    far = sorted(found, key=lambda one: one.relative, reverse=True)[:_LISTED]
    rows = [(one.name, _number(one.relative), _number(one.numbers.max_abs or 0.0)) for one in far]
    body += "<h3>Farthest</h3>" + table(("tensor", "relative", "largest gap"), rows)
    return Section("Change", body)


def noted(rows: Sequence[Row], infos: Mapping[str, TensorInfo]) -> list[Section]:
    """Return what ops noted about tensors, if they did: the extremes, and each number by layer and module."""
    if not rows:
        return []
    listed = [
        (row.step, row.name, f"{len(row.numbers):,}", *_extremes(row), number(row.mean)) for row in rows
    ]
    body = table(("step", "number", "tensors", "least", "in", "most", "in", "mean"), listed)
    for row in rows:
        cells = _cells(_placed(row, infos))
        if len(cells) > 1:
            label = f"{row.name}, by module and layer"
            body += f"<h3>{safe(row.step)}: {safe(row.name)}</h3>{_grid(cells, label)}"
    return [Section("Noted by ops", body)]


def recipe(manifest: Mapping[str, Any]) -> Section:
    """Return the recipe's text."""
    return Section("Recipe", listing(str(manifest.get("recipe", ""))))


def _by_layer(found: Sequence[Change]) -> str:
    finite = [one for one in found if math.isfinite(one.relative)]
    cells = _cells((one.layer, one.module, one.relative) for one in finite)
    label = "relative change, by module and layer (shades are logarithmic)"
    return _grid(cells, label, log=True) if cells else ""


def _cells(numbers: Iterable[tuple[int | None, str, float]]) -> dict[tuple[str, str], float]:
    """Return the mean number of each module and layer; what is outside of layers has no place."""
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for layer, module, one in numbers:
        if layer is not None:
            cells[module, str(layer)].append(one)
    return {at: fmean(several) for at, several in cells.items()}


def _grid(cells: Mapping[tuple[str, str], float], label: str, *, log: bool = False) -> str:
    rows = list(dict.fromkeys(module for module, _ in cells))
    columns = [str(layer) for layer in sorted({int(layer) for _, layer in cells})]
    return heatmap(rows, columns, cells, label=label, log=log)


def _extremes(row: Row) -> tuple[str, str, str, str]:
    least, most = row.least, row.most
    return number(row.numbers[least]), least, number(row.numbers[most]), most


def _placed(row: Row, infos: Mapping[str, TensorInfo]) -> Iterable[tuple[int | None, str, float]]:
    """Yield layer, module and number of each tensor, the layer that of the output's tensor."""
    several = len({info.role.stack for info in infos.values() if info.role.layer is not None}) > 1
    for tensor, output in row.outputs.items():
        info = infos[output]
        module = module_of(replace(info, spec=info.spec.with_(name=tensor)), several)
        if module == tensor.removesuffix(".weight"):  # it came from another layer
            module = module_of(info, several)
        yield info.role.layer, module, row.numbers[tensor]


def _run_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not report:
        return [("run", "no report.json: it was written by an older release, or is gone")]
    moved = report.get("bytes_read", 0) + report.get("bytes_written", 0)
    seconds = max(float(report.get("seconds", 0)), 1e-9)
    workers = f"{report.get('workers', '')} on {report.get('device', '')}"
    resumed = report.get("resumed", 0)
    plugins = ", ".join(f"{name} {version}" for name, version in _mapping(report, "plugins").items())
    versions = [f"{key} {report[key]}" for key in ("surgery", "torch", "python", "system") if key in report]
    return [
        ("time", f"{seconds:.1f} s, {human_bytes(moved / seconds)}/s"),
        ("read", human_bytes(report.get("bytes_read", 0))),
        ("written", human_bytes(report.get("bytes_written", 0))),
        ("peak memory", human_bytes(report.get("peak_rss", 0))),
        ("workers", workers),
        *([("resumed", f"{resumed:,} tensors were kept from an interrupted run")] if resumed else []),
        ("versions", ", ".join(versions)),
        ("plugins", plugins),
    ]


def _model_rows(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            name,
            "@".join(str(noted[key]) for key in ("repository", "revision") if key in noted)
            or str(noted.get("source", "")),
        )
        for name, noted in _mapping(manifest, "models").items()
        if isinstance(noted, dict)
    ]


def _mapping(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def _largest(values: Mapping[str, float], most: int = 24) -> dict[str, float]:
    """Return the largest values, falling; what is beyond `most` is taken together."""
    ordered = sorted(values.items(), key=lambda item: -item[1])
    rest = sum(value for _, value in ordered[most:])
    return dict(ordered[:most]) | ({f"{len(ordered) - most} more": rest} if rest else {})


def _bytes_chart(values: Mapping[str, float]) -> str:
    """Return bars of bytes in the unit that suits the longest."""
    largest = max(values.values(), default=0.0)
    unit, size = next((unit for unit in _UNITS if largest >= unit[1]), _UNITS[-1])
    return bar_chart({name: value / size for name, value in _largest(values).items()}, y_label=unit)


def _number(value: float) -> str:
    return f"{value:.3g}"
