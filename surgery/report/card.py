"""The model card, README.md: front matter for the Hub, then parents, recipe, methods and what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import networkx as nx
import yaml

from surgery import __version__
from surgery.checkpoint.origin import Origin, origin_of
from surgery.execute.report import Report
from surgery.ops import Op
from surgery.plan.model import Output, Plan
from surgery.plan.nodes import Source, walk, weights_of
from surgery.plan.summary import dtypes_of
from surgery.recipe.published import published, published_source
from surgery.report.licences import Licence, common, licence_of
from surgery.tensors import human_bytes

CARD: Final = "README.md"


def card(plan: Plan, report: Report, output: Output) -> str:
    """Return an output's README.md. Of local folders only the last part of the name is told."""
    parents = parents_of(plan, output)
    origins = {name: origin_of(plan.checkpoints[name]) for name in parents}
    licences = {name: licence_of(plan.checkpoints[name]) for name in parents}
    parts = [
        _front_matter(output, origins, licences),
        _title(output),
        _parents(plan, parents, origins, licences),
        _recipe(plan),
        _methods(_ops(plan, output)),
        _numbers(report, output),
    ]
    return "\n".join(part for part in parts if part)


def parents_of(plan: Plan, output: Output) -> list[str]:
    """Return the sources whose weights the output is computed from, in the recipe's order."""
    nodes = walk(*(tensor.node for tensor in output.tensors), below=weights_of)
    read = {id(node.checkpoint) for node in nodes if isinstance(node, Source)}
    return [name for name in plan.recipe.models if id(plan.checkpoints.get(name)) in read]


def relation(output: Output, parents: Sequence[str]) -> str:
    """Return what the output is to its parents, in the Hub's words: adapter, quantized, merge or finetune."""
    if output.relation is not None:
        return output.relation
    if "quantization_config" in output.config or "compression_config" in output.config:
        return "quantized"
    return "merge" if len(parents) > 1 else "finetune"


def _front_matter(output: Output, origins: dict[str, Origin], licences: dict[str, Licence | None]) -> str:
    kind = relation(output, list(origins))
    library = _library(output)
    published_at = list(dict.fromkeys(origin.repository for origin in origins.values() if origin.repository))
    licence = common(licences)
    data: dict[str, Any] = {}
    if published_at:
        data |= {"base_model": published_at, "base_model_relation": kind}
    if library:
        data["library_name"] = library
    data["tags"] = ["model-surgery", *([kind] if kind in ("merge", "adapter", "quantized") else [])]
    if licence:
        data |= licence.front_matter()
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n"


def _library(output: Output) -> str:
    if output.library is not None:
        return output.library
    return "transformers" if output.config.get("model_type") else ""


def _title(output: Output) -> str:
    name = output.folder.name if output.folder else output.name
    return (
        f"# {_plain(name)}\n\n"
        f"Made with model-surgery {__version__} from the recipe below. "
        "`surgery verify` checks the files, `surgery reproduce` makes them again and compares the bytes.\n"
    )


def _parents(
    plan: Plan, parents: Sequence[str], origins: dict[str, Origin], licences: dict[str, Licence | None]
) -> str:
    rows = [
        (f"`{name}`", _source(plan, name, origins[name]), str(licences[name] or "not stated"))
        for name in parents
    ]
    lines = ["## Parents\n", *_table(("name", "source", "licence"), rows), ""]
    stated = {str(licence) for licence in licences.values() if licence}
    if len(stated) > 1:
        listed = ", ".join(_plain(licence) for licence in sorted(stated))
        lines.append(
            f"The parents' licences differ ({listed}): whoever uses this model must keep all of them.\n"
        )
    elif stated and None in licences.values():
        lines.append("Not every parent states its licence: look before you publish this model.\n")
    return "\n".join(lines)


def _source(plan: Plan, name: str, origin: Origin) -> str:
    if not origin.repository:
        return _plain(published_source(plan.recipe, name).rstrip("/").rpartition("/")[2])
    return f"`{origin.repository}@{origin.revision}`" if origin.revision else f"`{origin.repository}`"


def _recipe(plan: Plan) -> str:
    text = published(plan.recipe).rstrip("\n")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"## Recipe\n\n{fence}yaml\n{text}\n{fence}\n"


def _ops(plan: Plan, output: Output) -> list[Op]:
    """Return the ops of the steps that the output depends on, each once, by name."""
    needed = nx.ancestors(plan.graph(), f"-> {output.name}")
    ops = {step.op.name: step.op for step in plan.steps.values() if step.name in needed}
    return [ops[name] for name in sorted(ops)]


def _methods(ops: Iterable[Op]) -> str:
    lines = [f"* `{op.name}`: {op.summary}" + (f" {op.cite}" if op.cite else "") for op in ops]
    return "\n".join(["## Methods\n", *lines, ""]) if lines else ""


def _numbers(report: Report, output: Output) -> str:
    specs = [tensor.spec for tensor in output.tensors]
    rate = (report.bytes_read + report.bytes_written) / max(report.seconds, 1e-9)
    rows = [
        ("tensors", f"{len(specs):,}"),
        ("numbers stored", f"{sum(spec.numel for spec in specs):,}"),
        ("size", f"{human_bytes(output.nbytes)} ({', '.join(dtypes_of(specs))})"),
        ("time", f"{report.seconds:.1f} s on {report.device}, {human_bytes(rate)}/s"),
        ("peak memory", human_bytes(report.peak_rss)),
    ]
    return "\n".join(["## Numbers\n", *_table(("", ""), rows), ""])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _plain(text: str) -> str:
    """Return text that Markdown and HTML take for nothing but text."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&])", r"\\\1", shown)
