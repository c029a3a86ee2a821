"""Plugins: how they are found, loaded and asked. A family is loaded when a recipe names it."""

from __future__ import annotations

from surgery.host.discovery import ALWAYS, DISABLED, FAMILIES, Plugin, owner_of
from surgery.host.host import Host, Loaded

__all__ = ["ALWAYS", "DISABLED", "FAMILIES", "Host", "Loaded", "Plugin", "owner_of"]
