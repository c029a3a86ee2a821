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
from surgery.checkpoint.sidecars import config_with_dtype, without_quantization, write_json
from surgery.errors import ResourceError
from surgery.execute.report import Written
from surgery.execute.sink import WORK, Sink
from surgery.plan.model import Output, Plan
from surgery.tensors import DTYPES

MANIFEST = "surgery.json"


def publish(plan: Plan, sinks: Sequence[Sink], *, force: bool) -> tuple[Written, ...]:
    """Complete the partial folders of all outputs, then rename each to its place.

    Raises ResourceError if that cannot be done; what is computed then stays in the partial folders.
    """
    for sink in sinks:
        with _told(sink):
            _complete(plan, sink)
    with _uninterrupted():
        for sink in sinks:
            with _told(sink):
                _rename(sink, force=force)
    for sink in sinks:
        shutil.rmtree(_place(sink) / WORK, ignore_errors=True)
    return tuple(_written(sink) for sink in sinks)


def _place(sink: Sink) -> Path:
    assert sink.output.folder is not None
    return sink.output.folder


def _written(sink: Sink) -> Written:
    output = sink.output
    return Written(output.name, _place(sink), len(output.tensors), output.nbytes, len(sink.layout.shards))


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


def _complete(plan: Plan, sink: Sink) -> None:
    """Put everything that belongs to an output into its partial folder, and bring it to the disk."""
    missing = sink.layout.places.keys() - sink.done.keys()
    assert not missing, f"{sink.folder}: {len(missing)} tensors were never written, {min(missing)} among them"
    sink.writer.finish()
    files = _sidecars(sink.output, sink.folder)
    write_json(sink.folder / MANIFEST, manifest(plan, sink, files))
    for name in [*files, MANIFEST]:
        _sync(sink.folder / name)
    _sync(sink.folder)


def _sidecars(output: Output, folder: Path) -> dict[str, str]:
    """Write config.json and copy the tokenizer's files; return their hashes."""
    for name, path in output.sidecars.items():
        shutil.copyfile(path, folder / name)
    names = list(output.sidecars)
    if output.config:
        write_json(folder / "config.json", output_config(output))
        names.append("config.json")
    return {name: xxhash.xxh3_128((folder / name).read_bytes()).hexdigest() for name in sorted(names)}


def output_config(output: Output) -> Mapping[str, Any]:
    """Return config.json as it is written: the dtype that most of the elements are stored in, no quantization."""
    weights: dict[str, int] = {}
    for tensor in output.tensors:
        if DTYPES[tensor.spec.dtype].arithmetic:
            weights[tensor.spec.dtype] = weights.get(tensor.spec.dtype, 0) + tensor.spec.numel
    config = output.config
    if weights:
        name = DTYPES[max(sorted(weights), key=lambda tag: weights[tag])].torch
        assert name is not None
        config = config_with_dtype(config, name)
    if all(DTYPES[tensor.spec.dtype].arithmetic for tensor in output.tensors):
        config = without_quantization(config)
    return config


def manifest(plan: Plan, sink: Sink, files: Mapping[str, str]) -> dict[str, Any]:
    """Return what `surgery verify` checks: hashes of all tensors and files, and where they come from."""
    output = sink.output
    return {
        "format": 1,
        "surgery": __version__,
        "output": output.name,
        "seed": plan.recipe.seed,
        "models": {name: _source(plan, name) for name in sorted(plan.checkpoints)},
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


def _source(plan: Plan, name: str) -> str:
    """Return a source as it may be published: a Hub id as it is, a local path by its last part only."""
    source = plan.recipe.models[name].source
    return Path(source).name if source.startswith((".", "/", "~")) else source


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
    _sync(folder.parent)


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
