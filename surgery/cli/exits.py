"""Errors become messages and exit codes: 0 done, 2 the user can mend it, 1 a bug, 130 interrupted."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from surgery.cli.console import OutputClosed, flush, printable
from surgery.errors import SurgeryError

MENDABLE = 2
BUG = 1
INTERRUPTED = 130


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what a command raises into a message on stderr and click's Exit with the code."""
    try:
        yield
        flush()
    except (click.exceptions.Exit, click.ClickException):
        raise
    except OutputClosed:
        _discard_output()
        raise click.exceptions.Exit(0) from None
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except SurgeryError as error:
        click.echo(message(error), err=True)
        raise click.exceptions.Exit(MENDABLE) from None
    except Exception:
        traceback.print_exc()
        click.echo(
            "this is a bug; please report it with the lines above, the recipe and what `surgery version` says",
            err=True,
        )
        raise click.exceptions.Exit(BUG) from None


def message(error: SurgeryError) -> str:
    """Return what is printed of an error: one line after `error: `, or its findings, one a line."""
    lines = [printable(line) for line in str(error).splitlines()] or [type(error).__name__]
    return f"error: {lines[0]}" if len(lines) == 1 else "\n".join(lines)


def _discard_output() -> None:
    """Let Python's own flush at exit go nowhere: the reader of our output has left."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no file: a test's, or closed
        pass
    finally:
        os.close(devnull)
