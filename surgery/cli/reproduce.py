"""`surgery reproduce`: make an output again from the recipe in it, and compare the bytes."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.bar import Bar
from surgery.cli.console import Column, on_terminal, say, table, warn
from surgery.cli.options import memory_option, models_option, plugin_option
from surgery.cli.registry import host_with
from surgery.cli.words import count
from surgery.errors import CheckpointError, ResourceError

if TYPE_CHECKING:
    from surgery.host import Host
    from surgery.plan.model import Plan
    from surgery.report.manifest import Fault
    from surgery.report.sources import Made

AGAIN = ".again"  # behind the folder's name: where an output is made again


@click.command("reproduce")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR2",
    help=f"Where to make it again, to be kept; by default DIR{AGAIN}, which is removed.",
)
@models_option
@memory_option
@plugin_option
def command(
    folder: Path, out: Path | None, models: dict[str, str], memory: int | None, plugins: tuple[Path, ...]
) -> None:
    """Make an output again from the recipe in it, and compare the bytes.

    Exits with 0 when all tensors and all files that come with them are the same, with 2 and a table otherwise. Models
    are looked for where the recipe says, seen from the output and from the current folder, or as --models says.
    """
    from surgery.report.manifest import check, read_manifest
    from surgery.report.sources import Made

    manifest = read_manifest(folder)
    made = Made.of(folder, manifest)
    made.check_names(models)
    place = (out or folder.absolute().with_name(folder.absolute().name + AGAIN)).absolute()
    if place.exists():
        raise ResourceError(f"{place}: exists; move it away or pass --out DIR2")
    host = host_with(plugins)
    _run(made, manifest, place, models, memory, host)
    try:
        faults, _ = check(folder, read_manifest(place))
    finally:
        if out is None:
            shutil.rmtree(place, ignore_errors=True)
    if faults:
        _show(faults)
        raise CheckpointError(f"{folder}: {_differ(len(faults))} from what its recipe makes here and now")
    tensors, files = count(len(manifest["tensors"]), "tensor"), count(len(manifest["files"]), "other file")
    say(f"{folder}: identical: {tensors} and {files} came out with the same bytes")


def _run(
    made: Made, manifest: dict[str, Any], place: Path, given: dict[str, str], memory: int | None, host: Host
) -> None:
    """Carry the recipe out, after saying what is not as it was."""
    from surgery.api import ResolvedPlan
    from surgery.plan.resolve import resolve
    from surgery.report.again import check_plugins, once_more
    from surgery.schedule.options import RunOptions

    check_plugins(made, manifest, host)
    recipe = once_more(made, str(manifest.get("output", "")), given, host.read_foreign)
    plan = resolve(recipe, host, out=place)
    try:
        for difference in _differences(made, manifest, plan, host):
            warn(difference)
        with Bar() if on_terminal(err=True) else nullcontext() as bar:
            ResolvedPlan(plan, host).run(RunOptions(memory=memory), listener=bar)
    finally:
        plan.close()


def _differences(made: Made, manifest: dict[str, Any], plan: Plan, host: Host) -> list[str]:
    from surgery.report.again import other_versions
    from surgery.report.sources import changed

    models = [
        what for name, c in plan.checkpoints.items() for what in changed(name, made.models.get(name, {}), c)
    ]
    return [*other_versions(manifest, plan, host), *models]


def _show(faults: list[Fault]) -> None:
    columns = [Column("tensor or file"), Column("difference")]
    said = {"changed": "other bytes", "added": "is not made", "missing": "is missing in the output"}
    table(columns, [(fault.subject, said.get(fault.kind, fault.what)) for fault in faults])


def _differ(faults: int) -> str:
    return "1 tensor or file differs" if faults == 1 else f"{faults:,} tensors or files differ"
