"""`surgery verify`: check an output's files against the hashes written with it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from surgery.cli.bar import Bar
from surgery.cli.console import on_terminal, say
from surgery.cli.words import count
from surgery.errors import CheckpointError
from surgery.tensors import human_bytes


@click.command("verify")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Check an output's files against the hashes written with it.

    Reads every byte. Files that the output did not come with, such as a model card, are left alone.
    """
    from surgery.report.manifest import check, read_manifest

    manifest = read_manifest(folder)
    with Bar() if on_terminal(err=True) else nullcontext() as bar:
        faults, nbytes = check(folder, manifest, bar.show if bar else None)
    if faults:
        raise CheckpointError("\n".join(map(str, faults)))
    tensors, files = count(len(manifest["tensors"]), "tensor"), count(len(manifest["files"]), "other file")
    say(f"{folder}: {tensors} ({human_bytes(nbytes)}) and {files} are as they were written")
