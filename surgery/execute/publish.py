"""The end of a run: sidecar files, the manifest, one rename. Before it nothing looks finished, after it all is."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from surgery import __version__
from surgery.checkpoint.origin import origin_of
from surgery.checkpoint.sidecars import (
    CONFIG,
    config_with_dtype,
    put_sidecars,
    without_quantization,
    write_json,
)
from surgery.checkpoint.syncing import sync_file, sync_folder
from surgery.errors import ResourceError
from surgery.execute.publishing import Publishing
from surgery.execute.report import Leave, Report, Written
from surgery.execute.sink import WORK, Sink
from surgery.host import Host
from surgery.plan.model import Output, Plan
from surgery.recipe.published import published, published_source
from surgery.tensors import DTYPES

MANIFEST = "surgery.json"


def publish(
    plan: Plan,
    report: Report,
    sinks: Sequence[Sink],
    host: Host,
    publishing: Publishing,
    *,
    force: bool,
    leave: Leave | None = None,
) -> tuple[str, ...]:
    """Complete the partial folders of all outputs, then publish each, or rename it to its place.

    Returns where each was published, "" for those that are only in their folder.

    `leave` writes what a run leaves beside the weights. It is not in the manifest: times differ from run to run.
    Raises ResourceError if that cannot be done; what is computed then stays in the partial folders.
    """
    for sink in sinks:
        with _told(sink):
            _complete(plan, sink, host)
            left = leave(plan, report, sink.output, sink.folder) if leave else ()
            for name in left:
                sync_file(sink.folder / name)
            sync_folder(sink.folder)
    urls = tuple(publishing.finish(sink) for sink in sinks)
    with _uninterrupted():
        for sink in sinks:
            with _told(sink):
                if _stays(sink.output):
                    _rename(sink, force=force)
                else:
                    shutil.rmtree(sink.folder)
    for sink in sinks:
        shutil.rmtree(_place(sink) / WORK, ignore_errors=True)
    return urls


def _stays(output: Output) -> bool:
    return output.target is None or output.target.keep


def _place(sink: Sink) -> Path:
    assert sink.output.folder is not None
    return sink.output.folder


def written(sink: Sink) -> Written:
    """Return what is or will be published of an output."""
    output = sink.output
    names = [tensor.spec.name for tensor in output.tensors]
    done = {name: sink.done[name] for name in names if name in sink.done}
    notes = {name: entry.notes for name, entry in done.items() if entry.notes}
    shards = len(sink.layout.shards)
    return Written(output.name, _place(sink), len(names), output.nbytes, shards, notes=notes)


@contextmanager
def _told(sink: Sink) -> Iterator[None]:
    """Turn what the system says about publishing an output into a ResourceError."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{_place(sink)}: cannot be published: {error.strerror}; "
            f"what is computed stays in {sink.folder}, run again"
        ) from error


def _complete(plan: Plan, sink: Sink, host: Host) -> None:
    """Put everything that belongs to an output into its partial folder, and bring it to the disk."""
    missing = sink.layout.places.keys() - sink.done.keys()
    assert not missing, f"{sink.folder}: {len(missing)} tensors were never written, {min(missing)} among them"
    sink.writer.finish()
    files = _sidecars(sink.output, sink.folder)
    write_json(sink.folder / MANIFEST, manifest(plan, sink, files, host))
    for name in [*files, MANIFEST]:
        sync_file(sink.folder / name)


def _sidecars(output: Output, folder: Path) -> dict[str, str]:
    """Write config.json and copy the tokenizer's files; return their hashes."""
    put_sidecars(output.sidecars, folder)
    names = list(output.sidecars)
    if output.config:
        write_json(folder / output.config_file, output_config(output))
        names.append(output.config_file)
    return {name: xxhash.xxh3_128((folder / name).read_bytes()).hexdigest() for name in sorted(names)}


def output_config(output: Output) -> Mapping[str, Any]:
    """Return config.json as it is written: the dtype that most of the elements are stored in, no quantization."""
    weights: dict[str, int] = {}
    for tensor in output.tensors:
        if DTYPES[tensor.spec.dtype].arithmetic:
            weights[tensor.spec.dtype] = weights.get(tensor.spec.dtype, 0) + tensor.spec.numel
    config = output.config
    if output.config_file != CONFIG:
        return config
    if weights:
        name = DTYPES[max(sorted(weights), key=lambda tag: weights[tag])].torch
        assert name is not None
        config = config_with_dtype(config, name)
    if all(DTYPES[tensor.spec.dtype].arithmetic for tensor in output.tensors):
        config = without_quantization(config)
    return config


def manifest(plan: Plan, sink: Sink, files: Mapping[str, str], host: Host) -> dict[str, Any]:
    """Return hashes of all tensors and files, and where they come from: what `surgery verify` checks and
    `surgery reproduce` begins with. The same run gives the same manifest."""
    output = sink.output
    return {
        "format": 1,
        "surgery": __version__,
        "output": output.name,
        "seed": plan.recipe.seed,
        "recipe": published(plan.recipe),
        "recipe_folder": _way_back(_place(sink), plan.recipe.folder),
        "models": {
            name: {"source": published_source(plan.recipe, name), **origin_of(checkpoint).record()}
            for name, checkpoint in sorted(plan.checkpoints.items())
        },
        "plugins": plugins_of(plan, host),
        "steps": {
            name: {"op": step.op.name, "version": step.op.version}
            for name, step in sorted(plan.steps.items())
        },
        "files": dict(sorted(files.items())),
        "tensors": {
            name: {"file": sink.layout.places[name].file, "xxh3": sink.done[name].xxh3}
            for name in sorted(sink.done)
        },
    }


def _way_back(folder: Path, home: Path) -> str | None:
    """Return the recipe's folder as seen from the output's: `..` if that is above it, `../found` if it is beside.

    None elsewhere: of a folder that is not above no more than its last part is told.
    """
    try:
        back = Path(os.path.relpath(home.resolve(), folder.resolve()))
    except ValueError:  # another drive
        return None
    named = sum(part != ".." for part in back.parts)
    return "/".join(back.parts) if named <= 1 else None


def plugins_of(plan: Plan, host: Host) -> dict[str, dict[str, str]]:
    """Return which releases the ops came from, by family; of a single file its name and hash."""
    found = {}
    for step in plan.steps.values():
        plugin = host.plugin_of(step.op.name)
        if plugin.file is None:
            found[plugin.name] = {"distribution": plugin.origin, "version": plugin.version}
        else:
            digest = xxhash.xxh3_128(plugin.file.read_bytes()).hexdigest()
            found[plugin.name] = {"file": plugin.file.name, "xxh3": digest}
    return dict(sorted(found.items()))


def _rename(sink: Sink, *, force: bool) -> None:
    """Rename a complete partial folder; what it replaces goes into its work folder, and is removed with that."""
    folder = _place(sink)
    if folder.exists():
        if any(folder.iterdir()) and not force:
            raise ResourceError(f"{folder}: appeared while the run was going on; move it away and run again")
        replaced = sink.folder / WORK / "replaced"
        shutil.rmtree(replaced, ignore_errors=True)  # of a run that was killed right here
        folder.rename(replaced)
    sink.folder.rename(folder)
    sync_folder(folder.parent)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM: between two renames nothing is at the output's place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: caught.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    for late in caught[:1]:
        signal.raise_signal(late)
