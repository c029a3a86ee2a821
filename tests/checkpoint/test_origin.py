from __future__ import annotations

import os
import shutil

import pytest
import xxhash

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.checkpoint.origin import (
    STRETCH,
    STRETCHES,
    Origin,
    base_name,
    cached,
    files_of,
    fingerprint,
    origin_of,
)
from surgery.checkpoint.safetensors import SafetensorsCheckpoint
from surgery.testing.tiny import save_tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_small_file_is_read_whole(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert fingerprint(path) == xxhash.xxh3_128_hexdigest((3).to_bytes(8, "little") + b"abc")


def test_of_a_large_file_stretches_from_start_to_end_are_read(tmp_path):
    size = 3 * STRETCH * STRETCHES
    data = bytearray(os.urandom(size))
    path = tmp_path / "x"
    path.write_bytes(data)
    before = fingerprint(path)
    for at in (0, STRETCH - 1, size - 1, size - STRETCH):
        data[at] ^= 1
        path.write_bytes(data)
        assert fingerprint(path) != before
        data[at] ^= 1
    data[STRETCH + 1] ^= 1  # between two stretches
    path.write_bytes(data)
    assert fingerprint(path) == before
    path.write_bytes(data + b"x")
    assert fingerprint(path) != before


def test_a_copy_elsewhere_and_later_has_the_same_origin(tmp_path):
    save_tiny(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "b" / "model.safetensors", (0, 0))
    first, second = (origin_of(SafetensorsCheckpoint(tmp_path / name)) for name in "ab")
    assert first == second
    size = (tmp_path / "a" / "model.safetensors").stat().st_size
    assert first.record()["files"]["model.safetensors"].keys() == {"bytes", "fingerprint"}
    assert first.record()["files"]["model.safetensors"]["bytes"] == size
    assert "repository" not in first.record()


@pytest.fixture
def hub(tmp_path):
    """A model in the Hub's cache: a link to a blob that is called by the sha256 of its bytes."""
    home = tmp_path / "hub" / "models--org--a-b"
    snapshot = home / "snapshots" / COMMIT
    save_tiny(snapshot)
    blob = home / "blobs" / ("f" * 64)
    blob.parent.mkdir()
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def test_a_model_in_the_hub_s_cache_has_repository_commit_and_sha256(hub):
    assert origin_of(SafetensorsCheckpoint(hub)).record() == {
        "repository": "org/a-b",
        "revision": COMMIT,
        "files": {
            "model.safetensors": {
                "bytes": (hub / "model.safetensors").stat().st_size,
                "sha256": "f" * 64,
            }
        },
    }


def test_a_model_in_the_cache_is_found_again(hub, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub.parents[2]))
    record = origin_of(SafetensorsCheckpoint(hub)).record()
    assert cached(record) == str(hub)
    assert cached(record | {"revision": "a" * 40}) == ""
    assert cached(record | {"repository": "../../etc"}) == ""
    assert cached({"files": {"model.safetensors": {}}}) == ""


def test_a_model_in_memory_comes_from_nowhere():
    assert files_of(MemoryCheckpoint({}, {})) == []
    assert origin_of(MemoryCheckpoint({}, {})).record() == {"files": {}}


class Remote(MemoryCheckpoint):
    """A reader that knows where its bytes come from."""

    origin = Origin("org/name", COMMIT, {"a.safetensors": {"bytes": 1, "sha256": "0" * 64}})


class Pair(MemoryCheckpoint):
    """A reader of two others."""

    def __init__(self, *others) -> None:
        super().__init__({}, {})
        self.others = others

    def parts(self):
        return (*self.others, self)


def test_what_a_reader_knows_goes_before_what_files_tell(tmp_path):
    assert origin_of(Remote({}, {})) == Remote.origin
    local = SafetensorsCheckpoint(save_tiny(tmp_path / "a"))
    both = origin_of(Pair(local, Remote({}, {})))
    assert (both.repository, both.revision) == ("org/name", COMMIT)
    assert both.files == origin_of(local).files | Remote.origin.files
    assert files_of(Pair(local, local)) == files_of(local)


def test_a_base_is_named_without_the_folders_that_it_lies_in():
    names = ("./zoo/base", "/home/me/base", "~/base", "org/name", "org/name@main")
    assert [base_name(name) for name in names] == ["base", "base", "base", "org/name", "org/name@main"]
