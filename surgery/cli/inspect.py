"""`surgery inspect`: show what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from surgery.checkpoint.origin import files_of
from surgery.cli.console import Column, pairs, say, say_json, table
from surgery.cli.options import json_option, plugin_option
from surgery.cli.patterns import Pattern, patterns_of
from surgery.cli.registry import host_with
from surgery.cli.sources import opened
from surgery.cli.words import count, millions, ranges
from surgery.errors import CheckpointError
from surgery.tensors import TensorInfo, human_bytes

if TYPE_CHECKING:
    from surgery.plan.virtual import VirtualModel

# The name that `surgery.execute.publish` gives it; that is not imported here because it imports torch.
MANIFEST: Final = "surgery.json"

# What is shown of config.json: enough to see whether two models go together.
_HIGHLIGHTS: Final = (
    "model_type",
    "architectures",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_local_experts",
    "num_experts",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
    "dtype",
    "torch_dtype",
)


@click.command("inspect")
@click.argument("path")
@click.option(
    "--tensors/--summary", default=False, help="List every tensor, or one line a pattern (default)."
)
@click.option(
    "--stored", is_flag=True, help="Show quantized tensors as they are stored, not as what they stand for."
)
@json_option
@plugin_option
def command(path: str, tensors: bool, stored: bool, as_json: bool, plugins: tuple[Path, ...]) -> None:
    """Show what a checkpoint holds.

    PATH is a folder, a file, or what a recipe may name as a source: `scheme:...` or a Hub id. Only
    headers are read.
    """
    with opened(path, host_with(plugins), stored=stored) as model:
        if as_json:
            say_json(_record(model, tensors))
            return
        pairs(_facts(model))
        say()
        if tensors:
            _list(model)
        else:
            _summarise(patterns_of(model.tensors.values()))


def _facts(model: VirtualModel) -> list[tuple[str, str]]:
    checkpoint = model.donor
    files = files_of(checkpoint)
    infos = model.tensors.values()
    facts = [
        ("checkpoint", checkpoint.location),
        ("format", _format(model) + (f", {count(len(files), 'file')}" if files else "")),
        ("tensors", f"{len(model.tensors):,}"),
        ("parameters", millions(sum(info.spec.numel for info in infos))),
        ("size", human_bytes(sum(info.spec.nbytes for info in infos))),
        ("layers", _layers(model)),
        ("names as in", model.architecture.name),
    ]
    facts += [("tied", f"{alias} is {name}") for alias, name in model.tied.items()]
    if checkpoint.sidecars:
        facts.append(("beside it", ", ".join(sorted(checkpoint.sidecars))))
    made_by, made_of = _making(model)
    facts += [("made by", ", ".join(made_by))] if made_by else []
    facts += [("made of", f"{name}: {source}") for name, source in made_of.items()]
    return facts + [(key, _short(value)) for key, value in _highlights(model).items()]


def _making(model: VirtualModel) -> tuple[list[str], dict[str, str]]:
    """Return the ops that made an output of ours, and where its models came from; nothing of other checkpoints.

    Raises CheckpointError if what was noted is damaged.
    """
    folder = Path(model.donor.location)
    if not (folder / MANIFEST).is_file():
        return [], {}
    from surgery.report.manifest import read_manifest

    manifest = read_manifest(folder)
    try:
        ops = [str(step["op"]) for step in manifest["steps"].values()]
        return ops, {name: _place(noted) for name, noted in manifest["models"].items()}
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"{folder / MANIFEST}: does not say what it was made of: an older release wrote it, or it is damaged"
        ) from None


def _place(noted: Mapping[str, Any]) -> str:
    """Return where a model came from, with the commit of a repository."""
    at = f" ({noted['repository']} at {noted['revision']})" if noted.get("revision") else ""
    return f"{noted['source']}{at}"


def _layers(model: VirtualModel) -> str:
    """Return the number of layers; of each stack where there are several."""
    stacks: dict[str, int] = {}
    for role in (info.role for info in model.tensors.values()):
        if role.layer is not None:
            stacks[role.stack] = max(stacks.get(role.stack, 0), role.layer + 1)
    listed = ", ".join(f"{layers} in {stack}" for stack, layers in stacks.items())
    return listed if len(stacks) > 1 else str(model.layers)


def _format(model: VirtualModel) -> str:
    """Return a format's name from its reader's, `SafetensorsCheckpoint`: checkpoints do not carry it."""
    return type(model.donor).__name__.removesuffix("Checkpoint").lower()


def _highlights(model: VirtualModel) -> Mapping[str, Any]:
    from surgery.plan.virtual import text_config

    config = text_config(model.config)
    return {key: config[key] for key in _HIGHLIGHTS if config.get(key) is not None}


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _summarise(patterns: list[Pattern]) -> None:
    columns = [
        *(Column("pattern"), Column("role"), Column("layers")),
        *(Column("tensors", right=True), Column("shape"), Column("dtype")),
        *(Column("parameters", right=True), Column("size", right=True)),
    ]
    rows = [
        (
            *(p.name, p.role, ranges(p.layers), f"{p.tensors:,}", _shape(p.shape), p.dtype),
            *(millions(p.parameters), human_bytes(p.nbytes)),
        )
        for p in patterns
    ]
    table(columns, rows)


def _list(model: VirtualModel) -> None:
    columns = [Column("tensor"), Column("role"), Column("layer", right=True), Column("expert", right=True)]
    columns += [Column("dtype"), Column("shape"), Column("size", right=True)]
    table(
        columns,
        [
            (
                *(info.name, info.role.kind, _index(info.role.layer), _index(info.role.expert)),
                *(info.spec.dtype, _shape(info.spec.shape), human_bytes(info.spec.nbytes)),
            )
            for info in model.tensors.values()
        ],
    )


def _index(index: int | None) -> str:
    return "" if index is None else str(index)


def _record(model: VirtualModel, tensors: bool) -> dict[str, Any]:
    """Return the checkpoint as plain data; tensors one by one, or by pattern."""
    infos = list(model.tensors.values())
    made_by, made_of = _making(model)
    patterns = [] if tensors else patterns_of(infos)
    return {
        "location": model.donor.location,
        "format": _format(model),
        "files": [file.name for file in files_of(model.donor)],
        "count": len(infos),
        "parameters": sum(info.spec.numel for info in infos),
        "nbytes": sum(info.spec.nbytes for info in infos),
        "layers": model.layers,
        "architecture": model.architecture.name,
        "tied": dict(model.tied),
        "sidecars": sorted(model.donor.sidecars),
        "made_by": made_by,
        "made_of": made_of,
        "config": dict(_highlights(model)),
        **({"tensors": [_tensor(info) for info in infos]} if tensors else {}),
        **({"patterns": [pattern.record() for pattern in patterns]} if patterns else {}),
    }


def _tensor(info: TensorInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "dtype": info.spec.dtype,
        "shape": list(info.spec.shape),
        "nbytes": info.spec.nbytes,
        "role": info.role.kind,
        "stack": info.role.stack,
        "layer": info.role.layer,
        "expert": info.role.expert,
    }
