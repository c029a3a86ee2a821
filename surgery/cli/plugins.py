"""`surgery plugins`: list the plugins and what each adds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

from surgery.cli.console import Column, say, say_json, table
from surgery.cli.options import json_option, plugin_option
from surgery.errors import PluginError

if TYPE_CHECKING:
    from surgery.host import Host, Plugin


@dataclass(frozen=True, slots=True)
class Entry:
    """A plugin: where it comes from, the hooks that it implements, its ops; `error` if it does not load."""

    name: str
    distribution: str
    version: str
    file: str
    hooks: tuple[str, ...]
    ops: int
    error: str = ""


@click.command("plugins")
@json_option
@plugin_option
def command(as_json: bool, plugins: tuple[Path, ...]) -> None:
    """List the plugins and what each adds.

    A plugin that does not load is listed with its error. SURGERY_DISABLED_PLUGINS names those to leave out.
    """
    entries = list(_entries(plugins))
    if as_json:
        say_json([asdict(entry) for entry in entries])
        return
    table(
        [
            *map(Column, ("plugin", "from", "version")),
            Column("ops", right=True),
            Column("hooks"),
            Column("file"),
        ],
        [(e.name, e.distribution, e.version, str(e.ops), _hooks(e), e.file) for e in entries],
    )
    for entry in entries:
        if entry.error:
            say(f"\n{entry.name} does not load:\n{entry.error}")
    disabled = os.environ.get("SURGERY_DISABLED_PLUGINS", "").replace(",", " ").split()
    if disabled:
        say(f"\nleft out by SURGERY_DISABLED_PLUGINS: {', '.join(disabled)}")


def _hooks(entry: Entry) -> str:
    return (
        "does not load" if entry.error else ", ".join(hook.removeprefix("surgery_") for hook in entry.hooks)
    )


def _entries(files: tuple[Path, ...]) -> Iterator[Entry]:
    """Yield every plugin; each is loaded apart from the others, so that one error hides nobody."""
    from surgery.host import Host

    host = Host()
    families, always = host.families, host.always
    for name, plugin in sorted([*families.items(), *always.items()]):
        host.families, host.always = {}, {}
        (host.always if plugin.always else host.families)[name] = plugin
        yield _installed(host, plugin)
    for file in files:
        yield _of_file(file)


def _installed(host: Host, plugin: Plugin) -> Entry:
    assert plugin.entry is not None
    error, module = "", None
    try:
        host.load_everything()
        module = plugin.entry.load()
    except PluginError as refused:
        error = str(refused)
    file = getattr(module, "__file__", None) or plugin.entry.value
    return Entry(
        plugin.name, plugin.origin, plugin.version, file, _hooks_of(module), _ops_of(host, plugin.name), error
    )


def _of_file(file: Path) -> Entry:
    from surgery.host import Host

    try:
        host = Host([file])
    except PluginError as error:
        return Entry(file.stem, "--plugin", "", str(file), (), 0, str(error))
    return Entry(file.stem, "--plugin", "", str(file), (), _ops_of(host, file.stem))


def _ops_of(host: Host, plugin: str) -> int:
    return sum(host.plugin_of(name).name == plugin for name in host.op_names())


def _hooks_of(module: ModuleType | None) -> tuple[str, ...]:
    """Return the hooks that a module implements: functions that pluggy's marker has marked."""
    from surgery import hookspecs

    names = [name for name in vars(hookspecs) if name.startswith("surgery_")]
    return tuple(name for name in names if hasattr(getattr(module, name, None), f"{hookspecs.GROUP}_impl"))
