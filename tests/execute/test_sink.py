"""Tensors on their way to the disk: pieces, spans, hashes, batches."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash

from surgery import ResourceError, RunOptions
from surgery.checkpoint.hashing import PIECE
from surgery.checkpoint.layout import lay_out
from surgery.execute.sink import Sink, Writing
from surgery.execute.syncer import BATCH_BYTES, Syncer
from surgery.plan.model import Output
from surgery.tensors import TensorSpec


def hexdigest(data: bytes) -> str:
    """Return the hash of a tensor's bytes as manifests and journals state it."""
    pieces = [xxhash.xxh3_128_digest(data[at : at + PIECE]) for at in range(0, len(data), PIECE)]
    return xxhash.xxh3_128_hexdigest(b"".join(pieces))


def test_tensors_of_many_pieces_are_written_and_hashed_in_every_dtype(shop):
    numel = PIECE // 2 + 1000  # two pieces of bfloat16, three of float32, five of float64
    a = shop.save("a", {"w": torch.randn(numel).bfloat16(), "ids": torch.arange(PIECE // 8 + 3)})
    outputs = {
        "half": {"model": "m", "to": "./half"},
        "single": {"model": "m", "to": "./single", "dtype": "float32"},
        "double": {"model": "m", "to": "./double", "dtype": "float64"},
        "copy": {"model": "a", "to": "./copy"},
    }
    steps = {"m": {"op": "toy.scale", "model": "a", "factor": 3}}
    shop.recipe(steps, outputs=outputs).run(RunOptions(device="cpu", threads=3))
    wanted = a["w"].float() * 3
    exact = {"half": wanted.bfloat16(), "single": wanted, "double": wanted.double(), "copy": a["w"]}
    for name, tensor in exact.items():
        made = shop.read(name)
        assert torch.equal(made["w"], tensor)
        assert torch.equal(made["ids"], a["ids"])
        manifest = json.loads((shop.folder / name / "surgery.json").read_text())
        for key in made:
            assert manifest["tensors"][key]["xxh3"] == hexdigest(
                made[key].view(torch.uint8).numpy().tobytes()
            )


def sink(folder: Path, *specs: TensorSpec) -> Sink:
    tensors: Any = ()
    output = Output("o", "m", folder / "out", tensors, {}, {}, 10**9)
    return Sink(output, lay_out(specs, 10**9), {spec.name: f"digest of {spec.name}" for spec in specs})


@pytest.fixture
def opened(tmp_path):
    made = sink(tmp_path, TensorSpec("w", (10,), "F32"), TensorSpec("v", (0,), "F32"))
    made.lock()
    made.open(resume=True)
    yield made
    made.close()


def written(made: Sink, name: str, data: bytes) -> Writing:
    writing = made.begin(next(s for s in made.layout.shards[0].tensors if s.name == name))
    stretch = writing.stretch(0)
    for at in range(0, len(data), 7):
        stretch.write(memoryview(data[at : at + 7]))
    assert stretch.close()
    return writing


def test_a_tensor_is_hashed_as_it_is_written(opened):
    data = os.urandom(40)
    assert written(opened, "w", data).hexdigest() == hexdigest(data)
    assert written(opened, "v", b"").hexdigest() == hexdigest(b"")
    back = bytearray(40)
    opened.writer.read_back("w", 0, memoryview(back))
    assert bytes(back) == data


def test_what_is_committed_is_found_again(opened, tmp_path):
    syncer = Syncer(lambda sink, entry: None)
    syncer.done(written(opened, "w", bytes(40)))
    syncer.close()
    opened.close()
    again = sink(tmp_path, *opened.layout.shards[0].tensors)
    again.lock()
    again.open(resume=True)
    assert set(again.done) == {"w"}
    assert again.done["w"].digest == "digest of w"
    again.close()


def test_two_sinks_cannot_claim_one_folder(opened, tmp_path):
    other = sink(tmp_path, *opened.layout.shards[0].tensors)
    partial = tmp_path / "out.partial"
    with pytest.raises(ResourceError) as error:
        other.lock()
    assert str(error.value) == f"{partial}: another run is writing here; wait for it, or write somewhere else"
    other.close()
    opened.close()
    other.lock()
    other.close()


def test_a_claim_on_a_folder_that_was_just_published_is_no_claim(opened, tmp_path, monkeypatch):
    other = sink(tmp_path, *opened.layout.shards[0].tensors)
    locked = fcntl.flock

    def publish_meanwhile(descriptor: int, how: int) -> None:
        (tmp_path / "out.partial").rename(tmp_path / "out")
        opened.close()
        locked(descriptor, how)

    monkeypatch.setattr("surgery.execute.sink.fcntl.flock", publish_meanwhile)
    with pytest.raises(ResourceError, match="another run is writing here"):
        other.lock()
    other.close()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def unsupported(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("surgery.execute.sink.fcntl.flock", unsupported)
    made = sink(tmp_path, TensorSpec("w", (1,), "F32"))
    with pytest.raises(ResourceError) as error:
        made.lock()
    assert str(error.value) == (
        f"{tmp_path / 'out.partial'}: cannot be locked: No locks available; write to another file system"
    )
    made.close()


class Recorded:
    """A sink that notes what is committed together."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.batches: list[list[str]] = []
        self.digests = dict.fromkeys("abcdefgh", "digest")
        self.error = error

    def commit(self, entries) -> None:
        if self.error is not None:
            raise self.error
        self.batches.append([entry.name for entry in entries])


def finished(recorded: Recorded, name: str, size: int = 4) -> Writing:
    writing = Writing(recorded, TensorSpec(name, (size,), "U8"))  # type: ignore[arg-type]
    for index in range(-(-size // PIECE)):
        writing.piece(index, b"")
    return writing


def test_small_tensors_are_committed_together_at_the_end(monkeypatch):
    monkeypatch.setattr("surgery.execute.syncer.BATCH_SECONDS", 60)
    recorded, told = Recorded(), []
    syncer = Syncer(lambda sink, entry: told.append(entry.name))
    for name in "abc":
        syncer.done(finished(recorded, name))
    assert recorded.batches == []
    syncer.close()
    assert recorded.batches == [["a", "b", "c"]]
    assert told == ["a", "b", "c"]


def test_many_bytes_are_committed_at_once(monkeypatch):
    monkeypatch.setattr("surgery.execute.syncer.BATCH_SECONDS", 60)
    recorded = Recorded()
    syncer = Syncer(lambda sink, entry: None)
    for name in "abc":
        syncer.done(finished(recorded, name, BATCH_BYTES // 2))
    syncer.close()
    assert recorded.batches == [["a", "b"], ["c"]]


def test_what_waits_long_is_committed(monkeypatch):
    monkeypatch.setattr("surgery.execute.syncer.BATCH_SECONDS", 0.02)
    recorded, told = Recorded(), threading.Event()
    syncer = Syncer(lambda sink, entry: told.set())
    syncer.done(finished(recorded, "a"))
    assert told.wait(5)
    syncer.close()
    assert recorded.batches == [["a"]]


def test_outputs_are_committed_apart():
    first, second = Recorded(), Recorded()
    syncer = Syncer(lambda sink, entry: None)
    for name, recorded in (("a", first), ("b", second), ("c", first)):
        syncer.done(finished(recorded, name))
    syncer.close()
    assert [name for batch in first.batches for name in batch] == ["a", "c"]
    assert [name for batch in second.batches for name in batch] == ["b"]


def test_an_error_of_a_commit_is_given_to_whoever_comes_next(monkeypatch):
    monkeypatch.setattr("surgery.execute.syncer.BATCH_SECONDS", 0.01)
    recorded = Recorded(ResourceError("full"))
    syncer = Syncer(lambda sink, entry: None)
    syncer.done(finished(recorded, "a"))
    time.sleep(0.2)
    with pytest.raises(ResourceError, match="full"):
        syncer.done(finished(recorded, "b"))
    with pytest.raises(ResourceError, match="full"):
        syncer.close()
