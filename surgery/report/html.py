"""An output's page, from what its folder holds and, where they are still there, the models that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.open import open_checkpoint
from surgery.checkpoint.origin import cached
from surgery.checkpoint.safetensors import SafetensorsCheckpoint
from surgery.errors import CheckpointError, SurgeryError
from surgery.host import Host
from surgery.plan.resolve import resolve
from surgery.plan.virtual import from_checkpoint
from surgery.recipe.load import parse_recipe
from surgery.recipe.published import as_yaml, without_paths
from surgery.report import sections
from surgery.report.change import Change, Seen, changes
from surgery.report.manifest import read_manifest
from surgery.report.noted import recorded, rows_of
from surgery.report.page import Section, page
from surgery.report.record import read_report
from surgery.report.sources import URI, Made, changed


def report_page(
    folder: Path,
    host: Host,
    given: Mapping[str, str],
    seen: Seen | None = None,
    more: Sequence[Section] = (),
) -> str:
    """Return the HTML page of an output. Reads every byte of it and of its sources, in bounded memory.

    given   where models are now, by name, when they are not where the recipe says
    more    sections of others, which come before the recipe

    Raises CheckpointError for a folder that `surgery run` did not write, PlanError for names that the recipe lacks.
    """
    manifest = read_manifest(folder)
    report = read_report(folder)
    stored = SafetensorsCheckpoint(folder)
    try:
        infos = from_checkpoint("out", stored, host.architectures()).tensors
    finally:
        stored.close()
    found, missing = _changes(folder, manifest, report, host, given, seen)
    parts = [
        sections.summary(manifest, report, infos),
        sections.over_time(report),
        sections.sizes(infos),
        sections.change(found, missing),
        *sections.noted(rows_of(recorded(report)), infos),
        *more,
        sections.recipe(manifest),
    ]
    return page(folder.absolute().name, parts)


def _changes(
    folder: Path,
    manifest: Mapping[str, Any],
    report: Mapping[str, Any],
    host: Host,
    given: Mapping[str, str],
    seen: Seen | None,
) -> tuple[list[Change], list[str]]:
    """Return the changes that can be seen, and sentences on what cannot."""
    tensors = report.get("tensors")
    if not isinstance(tensors, list):
        return [], ["There is no report.json that says what each tensor descends from."]
    made = Made.of(folder, manifest)
    made.check_names(given)
    wanted = {noted["from"]["model"] for noted in tensors if isinstance(noted.get("from"), dict)}
    with ExitStack() as stack:
        sources, missing = _sources(made, host, sorted(wanted), given, stack)
        if not sources:
            return [], missing
        out = open_checkpoint(str(folder.absolute()), Path(), host.formats(), host.schemes())
        # an adapter with whole tensors beside its factors cannot be merged: it is shown as it is stored
        with suppress(CheckpointError):
            out = host.decoded(out)
        stack.callback(out.close)
        model = from_checkpoint("out", out, host.architectures())
        return changes(model, tensors, sources, seen), missing


def _sources(
    made: Made, host: Host, wanted: list[str], given: Mapping[str, str], stack: ExitStack
) -> tuple[dict[str, Checkpoint], list[str]]:
    """Open the models that tensors descend from, until `stack` ends; of those that cannot be, say why."""
    opened: dict[str, Checkpoint] = {}
    missing = []
    for name in wanted:
        try:
            checkpoint = _open(name, made.sources(given, [name])[name], made, host)
        except SurgeryError as error:
            told = without_paths(str(error).partition("\n")[0])
            missing.append(f"Tensors that descend from `{name}` are left out: {told}")
            continue
        stack.callback(checkpoint.close)
        differing = changed(name, made.models.get(name, {}), checkpoint)
        missing += [f"Tensors that descend from `{name}` are left out: {what}." for what in differing]
        if not differing:
            opened[name] = checkpoint
    return opened, missing


def _open(name: str, model: dict[str, Any], made: Made, host: Host) -> Checkpoint:
    """Open one of a recipe's models as a plan does, adapter and decoder included, but fetch nothing from the Hub."""
    noted = made.models.get(name, {})
    source = cached(noted) or model["source"]
    elsewhere = noted.get("repository") or not URI.match(source)
    if elsewhere and not Path(source).exists():
        raise CheckpointError(f"`{source}` is not on this machine; pass --models {name}=PATH")
    recipe = {"surgery": 1, "models": {name: {**model, "source": source}}, "output": {"model": name}}
    parsed = parse_recipe(as_yaml(recipe), folder=made.home)
    return resolve(parsed, host, write=False).checkpoints[name]
