from __future__ import annotations

import os

import pytest

from surgery.checkpoint.syncing import sync_data, sync_file, sync_folder


def test_a_folder_is_synced_and_its_descriptor_given_back(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    before = len(os.listdir("/proc/self/fd"))
    sync_folder(tmp_path)
    assert synced == [str(tmp_path.resolve())]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_file_is_synced_too(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    (tmp_path / "config.json").write_text("{}")
    sync_file(tmp_path / "config.json")
    assert synced == [str(tmp_path.resolve() / "config.json")]


def test_a_folder_that_cannot_be_synced_is_an_error_and_gives_its_descriptor_back(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_are_synced_with_fdatasync_where_there_is_one():
    assert sync_data is getattr(os, "fdatasync", os.fsync)
