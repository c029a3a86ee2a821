"""`surgery plugin`: start a plugin package."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from surgery.cli.console import say


@click.group("plugin")
def command() -> None:
    """Start a plugin package."""


@command.command("new")
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="DIR",
    help="The folder that the package's folder is made in; by default this one.",
)
def new(name: str, into: Path) -> None:
    """Write a package with an op and tests that pass.

    NAME is the family: the ops are called `NAME.<method>`, the package `surgery-NAME`. Nothing is overwritten.
    """
    from surgery.cli.scaffolding import new_package, write_package

    package = new_package(name)
    folder = write_package(package, into)
    say(f"wrote {folder}; install it, run its tests, look at its op:")
    for words in (
        ("pip", "install", "-e", f"{folder}[test]"),
        ("python", "-m", "pytest", str(folder)),
        ("surgery", "op", f"{package.name}.toward"),
    ):
        say(f"  {shlex.join(words)}")
