from __future__ import annotations

import shutil
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from surgery.errors import CheckpointError, ResourceError
from surgery_hub.client import cache_folder
from surgery_hub.open import open_hub
from tests.plugins.hub.test_source import whole

HERE = Path()
EACH = 200_000  # bytes of each of ten tensors


@pytest.fixture
def tensors(hub, tmp_path):
    rng = np.random.default_rng(0)
    made = {f"w{i}": rng.standard_normal(EACH // 4).astype("f4") for i in range(10)}
    save_file(made, tmp_path / "m.safetensors")
    hub.add("org/x", {"model.safetensors": (tmp_path / "m.safetensors").read_bytes()})
    return made


@pytest.fixture
def checkpoint(hub, tensors):
    opened = open_hub("org/x", HERE)
    hub.requests.clear()
    yield opened
    opened.close()


def test_a_small_part_of_a_file_comes_by_range_and_leaves_nothing_behind(hub, checkpoint, tensors):
    checkpoint.expect(["w3", "w7"])
    assert whole(checkpoint, "w3") == tensors["w3"].tobytes()
    assert whole(checkpoint, "w7") == whole(checkpoint, "w7") == tensors["w7"].tobytes()
    assert hub.moved("GET /lfs") == 2 * EACH
    assert checkpoint.extent("w3") is None
    checkpoint.close()
    assert [path for path in cache_folder().iterdir() if path.is_file()] == []


def test_what_is_expected_twice_comes_once_and_stays(hub, checkpoint, tensors):
    """By two views of one reader, such as a file of factors that is a base and an adapter at once."""
    checkpoint.expect(["w3"])
    assert whole(checkpoint, "w3") == tensors["w3"].tobytes()
    checkpoint.expect(["w3", "w7"])
    assert whole(checkpoint, "w3") == tensors["w3"].tobytes()
    assert whole(checkpoint, "w7") == tensors["w7"].tobytes()
    assert hub.moved("GET /lfs") == 2 * EACH


def test_a_file_that_comes_whole_stays_whole_when_little_of_it_is_expected_again(hub, checkpoint, tensors):
    checkpoint.expect(["w1", "w2", "w3"])
    checkpoint.expect(["w1"])
    assert whole(checkpoint, "w1") == tensors["w1"].tobytes()
    assert hub.count("GET /lfs") == 1


def test_from_a_quarter_on_the_whole_file_comes_once_into_the_cache(hub, checkpoint, tensors):
    checkpoint.expect(["w1", "w2", "w3"])
    for name in tensors:
        assert whole(checkpoint, name) == tensors[name].tobytes()
    assert hub.count("GET /lfs") == 1
    assert checkpoint.extent("w1") is not None


def test_what_was_not_expected_comes_with_its_whole_file(hub, checkpoint, tensors):
    checkpoint.expect(["w3"])
    assert whole(checkpoint, "w4") == tensors["w4"].tobytes()
    assert whole(checkpoint, "w3") == tensors["w3"].tobytes()


def test_many_readers_fetch_a_file_once(hub, checkpoint, tensors):
    found = {}

    def read(name: str) -> None:
        found[name] = whole(checkpoint, name)

    threads = [threading.Thread(target=read, args=(name,)) for name in tensors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: value.tobytes() for name, value in tensors.items()}
    assert hub.count("GET /lfs") == 1


def test_it_says_how_much_has_come(hub, checkpoint):
    assert checkpoint.doing() == ""
    hub.rate = 4_000_000
    checkpoint.expect(checkpoint.tensors)
    assert checkpoint.doing() == "fetching org/x: 0 B of 1.9 MiB"
    whole(checkpoint, "w0")
    assert checkpoint.doing() == ""


def test_a_broken_connection_is_taken_up(hub, checkpoint, tensors, monkeypatch):
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.cut(1_000_000, "GET /lfs")
    assert whole(checkpoint, "w9") == tensors["w9"].tobytes()
    assert hub.count("GET /lfs") == 2


def test_a_download_that_fails_is_an_error_of_every_read(hub, checkpoint, monkeypatch):
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.fail(403, "resolve", times=9)
    for _ in range(2):
        with pytest.raises(CheckpointError) as error:
            whole(checkpoint, "w0")
        assert str(error.value) == (
            "org/x/model.safetensors: the token may not do this; use one with write access to the repository,"
            " or ask its owner"
        )


def test_a_disk_without_room_is_found_before_anything_comes(hub, checkpoint, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1_000_000))
    with pytest.raises(ResourceError) as error:
        checkpoint.expect(checkpoint.tensors)
    assert str(error.value) == (
        f"{cache_folder()}: fetching from the Hub needs 1.9 MiB, 976.6 KiB are free;"
        " free some space or set HF_HOME to a folder on another disk"
    )
    assert hub.requests == []
