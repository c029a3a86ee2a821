"""`surgery push`: publish a folder that `surgery run` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import click

from surgery.cli.bar import Bar
from surgery.cli.console import on_terminal, say, say_json
from surgery.cli.options import json_option, plugin_option
from surgery.cli.registry import host_with
from surgery.errors import CheckpointError, did_you_mean

if TYPE_CHECKING:
    from surgery.checkpoint.base_publisher import Destination, Publisher


@click.command("push")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("place")
@click.option("--revision", metavar="BRANCH", help="The branch to publish to, made if it is not there.")
@click.option("--private", is_flag=True, help="If the repository is made now, make it private.")
@json_option
@plugin_option
def command(
    folder: Path, place: str, revision: str | None, private: bool, as_json: bool, plugins: tuple[Path, ...]
) -> None:
    """Publish a finished folder.

    PLACE is `org/name` on the Hub, also as `hub:org/name@branch`, or what another plugin publishes to. What the place
    already holds is not sent again; everything becomes visible at once, at the end.
    """
    check_folder(folder)
    publisher = open_publisher(
        place + (f"@{revision}" if revision else ""), host_with(plugins).destinations(), private
    )
    try:
        publisher.begin()
        with _shown(publisher):
            url = publisher.finish(folder)
    finally:
        publisher.close()
    if as_json:
        say_json({"folder": str(folder), "url": url})
    else:
        say(f"{folder} is published: {url}")


def check_folder(folder: Path) -> None:
    """Raise CheckpointError unless a folder holds a model that is complete."""
    from surgery.checkpoint.safetensors import SafetensorsCheckpoint

    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is not a folder; give one that `surgery run` wrote")
    SafetensorsCheckpoint(folder).close()


def open_publisher(place: str, destinations: Sequence[Destination], private: bool) -> Publisher:
    """Return who publishes to a place. Raises CheckpointError if nobody does."""
    scheme, colon, rest = place.partition(":")
    for destination in destinations:
        claimed = not colon and destination.claims is not None and destination.claims(place)
        if claimed or (colon and destination.name == scheme):
            text = place if claimed else rest
            if wrong := destination.check(text):
                raise CheckpointError(f"{place}: {wrong}")
            return destination.open(text, private)
    near = did_you_mean(scheme, [d.name for d in destinations]) if colon else ""
    raise CheckpointError(f"{place}: no plugin publishes there; write `hub:org/name`{near}")


@contextmanager
def _shown(publisher: Publisher) -> Iterator[None]:
    """Show what is under way on a terminal."""
    if not on_terminal(err=True):
        yield
        return
    stop = Event()
    with Bar() as bar:

        def show() -> None:
            while not stop.wait(0.1):
                bar.show(0, 0, publisher.doing())

        thread = Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
