"""The end of a run: sidecar files, the manifest, one rename. Before it nothing looks finished, after it all is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
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


def publish(plan: Plan, sink: Sink, *, force: bool) -> Written:
    """Complete the partial folder of an output and rename it to its place."""
    output = sink.output
    assert output.folder is not None
    try:
        sink.writer.finish()
        files = _sidecars(output, sink.folder)
        write_json(sink.folder / MANIFEST, manifest(plan, sink, files))
        for name in [*files, MANIFEST]:
            _sync(sink.folder / name)
        _sync(sink.folder)
        _rename(sink.folder, output.folder, force=force)
    except OSError as error:
        raise ResourceError(
            f"{output.folder}: cannot be published: {error.strerror}; "
            f"what is computed stays in {sink.folder}, run again"
        ) from error
    shutil.rmtree(output.folder / WORK, ignore_errors=True)
    shards = len(sink.layout.shards)
    return Written(output.name, output.folder, len(output.tensors), output.nbytes, shards)


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


def _rename(partial: Path, folder: Path, *, force: bool) -> None:
    old: Path | None = None
    if folder.exists():
        if any(folder.iterdir()) and not force:
            raise ResourceError(f"{folder}: appeared while the run was going on; move it away and run again")
        old = folder.with_name(f"{folder.name}.old-{os.getpid()}")
        folder.rename(old)
    partial.rename(folder)
    _sync(folder.parent)
    if old is not None:
        shutil.rmtree(old)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
