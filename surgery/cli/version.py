"""`surgery version`: show the versions of surgery and of what it stands on."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from surgery import __version__
from surgery.cli.console import pairs

_LIBRARIES = (
    "torch",
    "safetensors",
    "numpy",
    "pydantic",
    "pluggy",
    "huggingface-hub",
    "accelerate",
    "transformers",
)


@click.command("version")
def command() -> None:
    """Show the versions of surgery and of what it stands on."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    pairs(
        [
            ("surgery", __version__),
            ("python", platform.python_version()),
            *((library, _version(library)) for library in _LIBRARIES),
            ("system", system),
        ]
    )


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"
