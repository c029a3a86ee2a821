"""report.json: what a run did, beside the weights that it made. Not part of what is the same from run to run.

    surgery, python, torch, system, plugins   versions
    output, device, workers, processes        where it ran
    seconds, bytes_read, bytes_written, peak_rss, resumed, samples
    tensors     name, shape, dtype, bytes; step and op that made it, or `copied`; `from`: the source's tensor that
                it is compared with; `of`: the tensor that it encodes, if it encodes one; `notes`: what ops noted on
                the way: step, the tensor that the op worked on, numbers by name
    warnings

The recipe, the sources and all hashes are in surgery.json. No path of this machine is in either.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from surgery import __version__
from surgery.checkpoint.sidecars import write_json
from surgery.checkpoint.strict_json import parse_object
from surgery.errors import CheckpointError, Finding
from surgery.execute.report import Report, Sample
from surgery.host import Host
from surgery.notes import Noted
from surgery.plan.model import Output, OutputTensor, Plan
from surgery.recipe.published import without_paths
from surgery.report.card import CARD, card
from surgery.report.lineage import lineage, name_of
from surgery.report.noted import notes_record

REPORT: Final = "report.json"
FORMAT: Final = 1


def leave(host: Host, plan: Plan, report: Report, output: Output, folder: Path) -> list[str]:
    """Write report.json and the model card into an output's folder; return the names of the files.

    A card that is there already, an op's or a plugin's own, is left alone. Raises ResourceError or OSError.
    """
    write_json(folder / REPORT, record(host, plan, report, output))
    if (folder / CARD).exists():
        return [REPORT]
    (folder / CARD).write_text(card(plan, report, output), encoding="utf-8", newline="\n")
    return [REPORT, CARD]


def record(host: Host, plan: Plan, report: Report, output: Output) -> dict[str, Any]:
    """Return what is written to report.json."""
    notes = next((written.notes for written in report.outputs if written.name == output.name), {})
    names = {id(checkpoint): name for name, checkpoint in reversed(list(plan.checkpoints.items()))}
    return {
        "format": FORMAT,
        "output": output.name,
        **_versions(host, plan),
        "device": report.device,
        "workers": report.workers,
        "processes": report.processes,
        "seconds": round(report.seconds, 3),
        "bytes_read": report.bytes_read,
        "bytes_written": report.bytes_written,
        "peak_rss": report.peak_rss,
        "resumed": report.resumed,
        "samples": _columns(report.samples),
        "warnings": [_finding(finding) for finding in report.warnings],
        "tensors": [_tensor(tensor, names, notes.get(tensor.spec.name, ())) for tensor in output.tensors],
    }


def read_report(folder: Path) -> dict[str, Any]:
    """Return an output's report.json; {} if it has none. Raises CheckpointError if it is damaged."""
    path = folder / REPORT
    if not path.is_file():
        return {}
    found = parse_object(path.read_bytes(), str(path))
    if found.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: is of format `{found.get('format')}`, this release reads format {FORMAT}"
        )
    return found


def _versions(host: Host, plan: Plan) -> dict[str, Any]:
    plugins = {plugin.name: plugin.version for plugin in _used(host, plan)}
    return {
        "surgery": __version__,
        "plugins": dict(sorted(plugins.items())),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _used(host: Host, plan: Plan) -> Iterable[Any]:
    """Return the plugins of the plan's ops, and those that every run asks."""
    return [*host.always.values(), *(host.plugin_of(step.op.name) for step in plan.steps.values())]


def _columns(samples: Iterable[Sample]) -> dict[str, list[float]]:
    rows = list(samples)
    return {
        "seconds": [round(row.seconds, 3) for row in rows],
        "read": [row.read for row in rows],
        "written": [row.written for row in rows],
        "rss": [row.rss for row in rows],
    }


def _finding(finding: Finding) -> dict[str, str]:
    return {key: without_paths(getattr(finding, key)) for key in ("where", "path", "what")}


def _tensor(tensor: OutputTensor, names: dict[int, str], notes: Sequence[Noted]) -> dict[str, Any]:
    spec = tensor.spec
    found = {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype, "bytes": spec.nbytes}
    of = name_of(tensor.node, spec.name)
    told = {"notes": notes_record(notes)} if notes else {}
    return found | ({"of": of} if of != spec.name else {}) | lineage(tensor.node, names) | told
