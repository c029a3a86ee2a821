"""`surgery plugins`: list the plugins and what each adds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from surgery.cli.console import Column, say, say_json, table
from surgery.cli.options import json_option, plugin_option
from surgery.errors import PluginError

if TYPE_CHECKING:
    from surgery.host import Host, Loaded, Plugin


@dataclass(frozen=True, slots=True)
class Entry:
    """A plugin: where it comes from, the hooks that it implements, its ops; `error` if it does not load."""

    name: str
    distribution: str
    version: str
    file: str
    hooks: tuple[str, ...] = ()
    ops: int = 0
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
    """Yield every plugin; one that does not load hides no other."""
    from surgery.host import Host

    host = Host()
    installed = {**host.families, **host.always}  # one may be both
    for name in sorted(installed):
        yield _installed(host, installed[name])
    for file in files:
        yield _of_file(file)


def _installed(host: Host, plugin: Plugin) -> Entry:
    assert plugin.entry is not None
    entry = Entry(plugin.name, plugin.origin, plugin.version, plugin.entry.value)
    try:
        return _with(entry, host.load(plugin))
    except PluginError as refused:
        return replace(entry, error=str(refused))


def _of_file(file: Path) -> Entry:
    """Return a file's entry; each has a host of its own, so that two may not be in each other's way."""
    from surgery.host import Host

    entry = Entry(file.stem, "--plugin", "", str(file))
    try:
        host = Host([file])
    except PluginError as refused:
        return replace(entry, error=str(refused))
    return _with(entry, host.load(host.files[file.stem]))


def _with(entry: Entry, loaded: Loaded) -> Entry:
    file = getattr(loaded.module, "__file__", None) or entry.file
    return replace(entry, file=file, hooks=loaded.hooks, ops=len(loaded.ops))
