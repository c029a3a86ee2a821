"""What reaches the screen: tables and lines, in colour on a terminal, plain and never wrapped anywhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


class OutputClosed(Exception):
    """Whoever read our output has gone (`surgery ops | head`)."""


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column: its heading, and whether it holds numbers."""

    name: str
    right: bool = False


def on_terminal(*, err: bool = False) -> bool:
    """Return whether people are looking at stdout, or at stderr."""
    return (sys.stderr if err else sys.stdout).isatty()


def rich_console(*, err: bool = False) -> Console:
    """Return rich's console for stdout or stderr. It takes text as it is: `layers[0:4]` is no markup."""
    from rich.console import Console

    return Console(stderr=err, markup=False, highlight=False, emoji=False)


def say(text: str = "") -> None:
    """Print lines on stdout."""
    try:
        click.echo("\n".join(printable(line) for line in text.split("\n")))
    except BrokenPipeError:
        raise OutputClosed from None


def warn(text: str) -> None:
    """Print a warning on stderr."""
    click.echo(f"warning: {printable(text)}", err=True)


def say_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a JSON value on stdout; with indent None on one line, at once."""
    say(json.dumps(value, indent=indent, allow_nan=False))
    if indent is None:
        flush()


def flush() -> None:
    """Bring what was printed to its reader."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputClosed from None


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Print a table on stdout."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if on_terminal():
        _rich_table(columns, cells, title)
        return
    if title:
        say(title)
    widths = [max(map(len, [column.name, *(row[i] for row in cells)])) for i, column in enumerate(columns)]
    for row in [[column.name for column in columns], *cells]:
        padded = (
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        say("  ".join(padded).rstrip())


def _rich_table(columns: Sequence[Column], rows: list[list[str]], title: str) -> None:
    from rich import box
    from rich.table import Table

    drawn = Table(
        title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False
    )
    for column in columns:
        drawn.add_column(column.name, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    rich_console().print(drawn)


def pairs(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values on stdout, the values below each other."""
    cells = list(rows)
    width = max((len(name) for name, _ in cells), default=0)
    for name, value in cells:
        say(f"{name.ljust(width)}  {value}")


def printable(text: str) -> str:
    """Return text without what a terminal would obey: names come from files that others wrote."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
