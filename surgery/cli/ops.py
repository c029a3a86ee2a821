"""`surgery ops`: list the ops of the installed plugins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.console import Column, say_json, table
from surgery.cli.options import json_option, plugin_option
from surgery.cli.registry import all_ops, family_ops, host_with, models_of, splits_of

if TYPE_CHECKING:
    from surgery.host import Host
    from surgery.ops import Op


@click.command("ops")
@click.argument("family", required=False)
@json_option
@plugin_option
def command(family: str | None, as_json: bool, plugins: tuple[Path, ...]) -> None:
    """List the ops of the installed plugins.

    FAMILY, such as `merge`, shows the ops of that family alone. `surgery op NAME` shows an op's parameters.
    """
    host = host_with(plugins)
    ops = family_ops(host, family) if family else all_ops(host)
    if as_json:
        say_json([op_record(host, op) for op in ops.values()])
        return
    table(
        [Column("op"), Column("split"), Column("base"), Column("models"), Column("summary")],
        [(op.name, splits_of(op), op.base, models_of(op), op.summary) for op in ops.values()],
    )


def op_record(host: Host, op: Op) -> dict[str, Any]:
    """Return an op's declaration as plain data."""
    plugin = host.plugin_of(op.name)
    return {
        "name": op.name,
        "family": op.family,
        "summary": op.summary,
        "splits": [split.value for split in op.splits],
        "base": op.base,
        "models": list(op.models),
        "takes": op.takes.value,
        "gives": op.gives.value,
        "parameters": list(op.params.model_fields),
        "each": list(op.each.model_fields) if op.each else [],
        "cite": op.cite,
        "version": op.version,
        "plugin": plugin.name,
        "distribution": plugin.origin,
    }
