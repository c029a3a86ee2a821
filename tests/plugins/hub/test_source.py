from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.origin import origin_of
from surgery.errors import CheckpointError
from surgery_hub.open import open_hub
from surgery_hub.source import FIRST, HubCheckpoint

HERE = Path()


def whole(checkpoint: Checkpoint, name: str) -> bytes:
    data = bytearray(checkpoint.tensors[name].nbytes)
    checkpoint.read_into(name, 0, memoryview(data))
    return bytes(data)


def sharded(folder: Path, sizes: dict[str, list[int]]) -> Path:
    """Write shards of float32 tensors of so many elements, with an index."""
    folder.mkdir()
    rng, weight_map = np.random.default_rng(0), {}
    for file, counts in sizes.items():
        made = {f"{file[6:11]}.{i}": rng.standard_normal(n).astype("f4") for i, n in enumerate(counts)}
        save_file(made, folder / file)
        weight_map |= dict.fromkeys(made, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def shards(hub, tmp_path) -> Path:
    """A repository `org/big` with three shards of 4 MB, and the folder that it was made from."""
    files = [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    made = sharded(tmp_path / "big", dict.fromkeys(files, [100_000] * 10))
    hub.add("org/big", made)
    return made


def test_opening_reads_headers_and_no_weights(hub, shards):
    checkpoint = open_hub("org/big", HERE)
    assert isinstance(checkpoint, HubCheckpoint)
    assert len(checkpoint.tensors) == 30
    size = sum(file.stat().st_size for file in shards.iterdir())
    assert hub.moved() < 0.01 * size
    assert hub.moved("/lfs/") == 3 * FIRST
    # the commit and its files; config.json and the index with a HEAD each; a redirect and a range for each shard
    assert len(hub.requests) == 1 + 2 * 2 + 3 * 2


def test_a_header_that_is_longer_than_the_first_request_takes_one_more(hub, tmp_path):
    tensors = {f"a.very.long.name.{i:04d}": np.full(2, i, "f4") for i in range(600)}
    save_file(tensors, tmp_path / "m.safetensors")
    hub.add("org/x", {"model.safetensors": (tmp_path / "m.safetensors").read_bytes()})
    checkpoint = open_hub("org/x", HERE)
    assert len(checkpoint.tensors) == 600
    assert hub.count("GET /lfs") == 2
    assert whole(checkpoint, "a.very.long.name.0599") == tensors["a.very.long.name.0599"].tobytes()


def test_the_bytes_are_those_of_the_file(hub, shards):
    checkpoint = open_hub("org/big", HERE)
    for file in shards.glob("*.safetensors"):
        for name, value in load_file(file).items():
            assert whole(checkpoint, name) == value.tobytes()


def test_a_stretch_of_a_tensor_is_read_alone(hub, shards):
    checkpoint = open_hub("org/big", HERE)
    part = bytearray(40)
    checkpoint.read_into("00002.3", 400, memoryview(part))
    assert bytes(part) == load_file(shards / "model-00002-of-00003.safetensors")["00002.3"][100:110].tobytes()
    with pytest.raises(ValueError, match=r"00002\.3: bytes 400000 to 400040 of 400000"):
        checkpoint.read_into("00002.3", 400_000, memoryview(part))


def test_a_second_opening_reads_weights_from_the_cache(hub, shards):
    first = open_hub("org/big", HERE)
    first.expect(first.tensors)
    expected = {name: whole(first, name) for name in first.tensors}
    first.close()
    hub.requests.clear()
    second = open_hub("org/big", HERE)
    second.expect(second.tensors)
    assert {name: whole(second, name) for name in second.tensors} == expected
    assert len(hub.requests) == 1  # which commit it is now
    extent = second.extent("00001.0")
    assert extent is not None
    assert extent.nbytes == 400_000


def test_offline_a_cached_model_is_read_and_has_the_same_identity(hub, shards, monkeypatch):
    online = open_hub("org/big@main", HERE)
    expected = {name: whole(online, name) for name in online.tensors}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    offline = open_hub("org/big", HERE)
    assert {name: whole(offline, name) for name in offline.tensors} == expected
    assert [offline.identity(name) for name in expected] == [online.identity(name) for name in expected]
    assert hub.requests == []


def test_offline_a_shard_that_is_not_cached_is_named(hub, shards, monkeypatch):
    open_hub("org/big", HERE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as error:
        open_hub("org/big", HERE)
    assert "`model-00001-of-00003.safetensors` is missing" in str(error.value)


def test_the_identity_follows_the_weights_not_the_commit(hub, shards):
    before = open_hub("org/big", HERE)
    hub.add("org/big", {"README.md": b"# new words"})
    same = open_hub("org/big", HERE)
    assert same.origin.revision != before.origin.revision
    assert same.identity("00001.0") == before.identity("00001.0")
    assert same.identity("00001.0") != same.identity("00001.1")
    file = "model-00001-of-00003.safetensors"
    changed = load_file(shards / file)
    changed["00001.0"][0] += 1
    save_file(changed, shards / file)
    hub.add("org/big", {file: (shards / file).read_bytes()})
    after = open_hub("org/big", HERE)
    assert after.identity("00001.0") != before.identity("00001.0")
    assert after.identity("00002.0") == before.identity("00002.0")


def test_it_stays_at_the_commit_that_it_was_opened_at(hub, shards):
    checkpoint = open_hub("org/big", HERE)
    file = "model-00001-of-00003.safetensors"
    expected = load_file(shards / file)["00001.0"].tobytes()
    hub.add("org/big", {file: b"something else"})
    assert whole(checkpoint, "00001.0") == expected


def test_its_origin_is_commit_and_sha256(hub, shards):
    import hashlib

    origin = origin_of(open_hub("org/big", HERE))
    assert (origin.repository, origin.revision) == ("org/big", hub.repos["org/big"].branches["main"])
    file = shards / "model-00002-of-00003.safetensors"
    assert origin.files[file.name] == {
        "bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def test_a_tokenizer_is_fetched_when_it_is_asked_for(hub, tiny):
    (tiny / "tokenizer.json").write_text('{"model": {}}')
    hub.add("org/x", tiny)
    checkpoint = open_hub("org/x", HERE)
    assert list(checkpoint.sidecars) == ["tokenizer.json"]
    assert hub.count("tokenizer") == 0
    assert checkpoint.sidecars["tokenizer.json"].read_text() == '{"model": {}}'
    assert hub.count("GET .*tokenizer") == 1
    assert checkpoint.sidecars.get("merges.txt") is None


def test_a_header_that_is_cut_off_is_an_error(hub):
    hub.add("org/x", {"model.safetensors": (1000).to_bytes(8, "little") + b"{"})
    with pytest.raises(CheckpointError) as error:
        open_hub("org/x", HERE)
    assert str(error.value) == (
        "org/x/model.safetensors: is cut off: its header ends at byte 1008, the file at byte 9;"
        " fetch the file again"
    )
