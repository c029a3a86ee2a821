from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from surgery.errors import CheckpointError
from surgery_hub.address import Address
from surgery_hub.listing import list_files
from surgery_hub.ranges import read_range

DATA = os.urandom(300_000)


@pytest.fixture
def url(hub):
    hub.add("org/x", {"model.safetensors": DATA})
    listing = list_files(Address("org/x"))
    hub.requests.clear()
    return listing.url("model.safetensors")


def test_a_range_is_what_is_asked_for_and_no_more(hub, url):
    assert read_range(url, 1000, 5000, "x") == DATA[1000:5000]
    assert hub.moved("GET /lfs") == 4000


def test_a_broken_connection_is_taken_up_where_it_ended(hub, url):
    hub.cut(100_000, "GET /lfs")
    hub.cut(50_000, "GET /lfs")
    assert read_range(url, 0, 300_000, "x") == DATA
    ranges = [seen.range for seen in hub.requests if "/lfs/" in seen.path]
    # the client may not have read all that was sent before the end
    starts = [int(range_.removeprefix("bytes=").partition("-")[0]) for range_ in ranges]
    assert starts[0] == 0 < starts[1] <= 100_000
    assert starts[1] < starts[2] <= 150_000


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_busy_is_asked_again(hub, url, status):
    hub.fail(status, "GET /lfs", times=2)
    assert read_range(url, 0, 10, "x") == DATA[:10]
    assert hub.count("GET /lfs") == 3


def test_it_waits_as_long_as_the_hub_asks(hub, url, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=waits.append))
    hub.fail(429, "GET /lfs", Retry_After="7")
    assert read_range(url, 0, 10, "x") == DATA[:10]
    assert waits == [8.0]  # the client adds a second


def test_what_never_comes_is_an_error(hub, url):
    hub.cut(0, "GET /lfs", times=9)
    with pytest.raises(CheckpointError) as error:
        read_range(url, 0, 10, "org/x/model.safetensors")
    assert str(error.value).startswith("org/x/model.safetensors: the Hub cannot be reached: ")
    assert hub.count("GET /lfs") == 5


def test_the_store_of_large_files_gets_no_token(hub, url):
    read_range(url, 0, 10, "x")
    assert [(bool(s.authorization), s.path[:5]) for s in hub.requests] == [(True, "/org/"), (False, "/lfs/")]
