from __future__ import annotations

import pytest
from huggingface_hub import constants

from surgery.errors import CheckpointError
from surgery_hub.address import Address
from surgery_hub.listing import RemoteFile, list_files


@pytest.fixture
def repo(hub):
    return hub.add("org/x", {"config.json": b"{}", "sub/a.bin": b"12345"})


def test_one_request_pins_the_commit_and_lists_the_files(hub, repo):
    listing = list_files(Address("org/x"))
    assert listing.sha == repo.sha
    assert listing.files == {
        "config.json": RemoteFile(2, "9e26dfeeb6e641a33dae4961196235bdb965b21b"),
        "sub/a.bin": RemoteFile(5, "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"),
    }
    assert len(hub.requests) == 1


def test_a_branch_that_moves_afterwards_is_not_followed(hub, repo):
    listing = list_files(Address("org/x"))
    hub.add("org/x", {"config.json": b'{"new": 1}'})
    assert listing.download("config.json").read_bytes() == b"{}"
    assert list_files(Address("org/x")).sha != listing.sha


def test_a_file_is_fetched_once(hub, repo):
    listing = list_files(Address("org/x"))
    assert listing.cached("sub/a.bin") is None
    first = listing.download("sub/a.bin")
    asked = len(hub.requests)
    assert listing.download("sub/a.bin") == first == listing.cached("sub/a.bin")
    assert len(hub.requests) == asked


def test_offline_the_cache_is_listed_without_a_request(hub, repo, monkeypatch):
    online = list_files(Address("org/x"))
    online.download("sub/a.bin")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    for revision in (None, "main", repo.sha):
        offline = list_files(Address("org/x", revision))
        assert offline.sha == online.sha
        assert offline.files == {"sub/a.bin": online.files["sub/a.bin"]}
    assert len(hub.requests) == asked


def test_offline_what_is_not_cached_is_an_error(hub, repo, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as error:
        list_files(Address("org/x", "v1"))
    assert str(error.value) == (
        "org/x@v1: is not in the Hub's cache, and HF_HUB_OFFLINE is set;"
        " fetch it before, or unset HF_HUB_OFFLINE"
    )


def test_a_hub_that_is_busy_is_asked_again(hub, repo):
    hub.fail(503, "GET /api/models", times=4)
    assert list_files(Address("org/x")).sha == repo.sha
    hub.fail(503, "GET /api/models", times=5)
    with pytest.raises(CheckpointError) as error:
        list_files(Address("org/x"))
    assert str(error.value) == (
        "org/x: the Hub is overloaded (HTTP 503); run again later: what is finished is kept"
    )
