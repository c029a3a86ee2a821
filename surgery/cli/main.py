"""The entry point of the command line. Imports neither torch nor pydantic: `surgery --help` answers at once."""

from __future__ import annotations

import sys
from io import TextIOWrapper

import click

from surgery import __version__
from surgery.cli.group import LazyGroup


@click.group("surgery", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="surgery", message="%(prog)s %(version)s")
def cli() -> None:
    """Make new models out of old weights: one recipe, one streamed pass, bounded memory."""


def main() -> None:
    """Run the command line and exit: 0 done, 2 the user can mend it, 1 a bug, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a summary's θ must not be the end of a command in an old locale
    cli(prog_name="surgery")
