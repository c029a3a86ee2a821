"""`surgery report`: make a page of what a run left in its output."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from surgery.cli.bar import Bar
from surgery.cli.console import on_terminal, say
from surgery.cli.files import write_new
from surgery.cli.options import models_option, plugin_option
from surgery.cli.registry import host_with

PAGE = "report.html"


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help=f"The page; by default DIR/{PAGE}."
)
@click.option("--force", is_flag=True, help="Replace the file given with --out.")
@models_option
@plugin_option
def command(
    folder: Path, out: Path | None, force: bool, models: dict[str, str], plugins: tuple[Path, ...]
) -> None:
    """Make an HTML page of what a run, or a search, left behind.

    One file that needs nothing else: time and memory, sizes, how far each tensor is from the model it descends from;
    of a search, and of the output of its winner, scores and values. Reads every byte of the output, and of its models
    where they still are what was read. Fetches nothing.
    """
    from surgery.search.folder import is_search, search_page

    text = search_page(folder) if is_search(folder) else _output_page(folder, models, plugins)
    path = out or folder / PAGE
    write_new(path, text, force=force or out is None)
    say(f"wrote {path}")


def _output_page(folder: Path, models: dict[str, str], plugins: tuple[Path, ...]) -> str:
    from surgery.report.html import report_page
    from surgery.search.folder import found_by

    host = host_with(plugins)
    with Bar() if on_terminal(err=True) else nullcontext() as bar:
        return report_page(folder, host, models, bar.show if bar else None, found_by(folder))
