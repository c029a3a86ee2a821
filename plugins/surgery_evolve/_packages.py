"""Packages that only a search needs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from surgery.errors import SurgeryError


def needed(package: str, sampler: str) -> Any:
    """Import a package of the extra `search`. Raises SurgeryError that says how to get it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise SurgeryError(
            f"{sampler}: needs the package `{package}`: {error}; install `model-surgery[search]`"
        ) from error
