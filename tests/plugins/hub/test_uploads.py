from __future__ import annotations

import pytest

from surgery_hub.uploads import Uploads


def test_a_file_that_vanished_is_told_at_the_end_and_holds_nothing_up(tmp_path):
    uploads = Uploads("me/model", "main", "hub:me/model")
    gone = tmp_path / "model.safetensors"
    uploads.put(gone)
    with pytest.raises((OSError, ValueError), match=r"model\.safetensors"):
        uploads.finish({gone.name: gone})
    assert uploads.doing() == "uploading model.safetensors"


def test_a_hash_that_fails_in_a_way_nobody_expects_holds_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setattr("threading.excepthook", lambda args: None)

    def broken(path, name):
        raise RuntimeError("broken")

    monkeypatch.setattr("surgery_hub.uploads._addition", broken)
    uploads = Uploads("me/model", "main", "hub:me/model")
    uploads.put(tmp_path / "a.safetensors")
    with pytest.raises(RuntimeError, match="broken"):
        uploads.finish({"a.safetensors": tmp_path / "a.safetensors"})
