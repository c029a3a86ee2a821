"""Commands that plugins add through `surgery_add_commands`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from typing import Final

import click

from surgery.cli.console import warn
from surgery.errors import PluginError

# The names that `surgery.host` gives them; it is not imported here because it imports pydantic.
ALWAYS: Final = "surgery.always"
DISABLED: Final = "SURGERY_DISABLED_PLUGINS"
# Our own plugins add no commands: without strangers' there is nobody to ask.
_OWN: Final = "model-surgery"


@lru_cache(maxsize=1)
def plugin_commands(taken: frozenset[str]) -> Mapping[str, click.Command]:
    """Return the commands that plugins add; `taken` are names that they may not claim.

    What a broken plugin would add is left out with a warning: it must not take `surgery --help` away.
    """
    if not _strangers():
        return {}
    from surgery.host import Host

    offered = _Offered(taken)
    try:
        Host().hook.surgery_add_commands(group=offered)
    except PluginError as error:
        warn(str(error))
    except Exception as error:  # a plugin's code: anything
        warn(
            f"surgery_add_commands: {type(error).__name__}: {error}; mend the plugin or disable it with {DISABLED}"
        )
    return offered.commands


def _strangers() -> bool:
    disabled = os.environ.get(DISABLED, "").replace(",", " ").split()
    return any(
        entry.name not in disabled and (entry.dist is None or entry.dist.name != _OWN)
        for entry in metadata.entry_points(group=ALWAYS)
    )


class _Offered(click.Group):
    """Collects commands and refuses two claims on one name."""

    def __init__(self, taken: frozenset[str]) -> None:
        super().__init__("surgery")
        self._taken = taken

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Take a command. Raises PluginError when its name is taken."""
        name = name or cmd.name or ""
        if name in self._taken or name in self.commands:
            owner = getattr(cmd.callback, "__module__", "a plugin")
            raise PluginError(f"{owner}: adds the command `{name}`, which is taken; rename it")
        super().add_command(cmd, name)
