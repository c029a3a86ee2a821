"""Finds the plugins that are installed, by entry point; imports none of them."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path

from surgery.errors import PluginError

FAMILIES = "surgery"
ALWAYS = "surgery.always"
DISABLED = "SURGERY_DISABLED_PLUGINS"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that is installed or was named on the command line: its name, distribution and version."""

    name: str
    origin: str
    version: str
    entry: importlib.metadata.EntryPoint | None = None
    file: Path | None = None
    always: bool = False

    def __str__(self) -> str:
        return f"plugin {self.name} ({self.origin} {self.version})" if self.version else f"plugin {self.name}"


def disabled_names() -> frozenset[str]:
    """Return the names of the plugins that the environment disables."""
    return frozenset(os.environ.get(DISABLED, "").replace(",", " ").split())


def discover(group: str, disabled: frozenset[str]) -> dict[str, Plugin]:
    """Return the entry points of a group by name, sorted: the order of discovery differs between machines."""
    found: dict[str, Plugin] = {}
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda e: (e.name, e.value)):
        origin, version = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")
        plugin = Plugin(entry.name, origin, version, entry=entry, always=group == ALWAYS)
        if entry.name in disabled:
            continue
        refuse_another(found.get(entry.name), plugin)
        found[entry.name] = plugin
    return found


def refuse_another(known: Plugin | None, plugin: Plugin) -> None:
    """Refuse a second plugin of a name that is taken."""
    if known and known.entry and plugin.entry and known.entry.value != plugin.entry.value:
        raise PluginError(
            f"two plugins are called `{plugin.name}`: {known} and {plugin}; "
            f"uninstall one or set {DISABLED}={plugin.name}"
        )


def owner_of(name: str) -> str | None:
    """Return the distribution that has a plugin called `name`, disabled or not; None if the name is free."""
    for group in (FAMILIES, ALWAYS):
        for entry in importlib.metadata.entry_points(group=group):
            if entry.name == name:
                return entry.dist.name if entry.dist else "another package"
    return None
