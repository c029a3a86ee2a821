"""Every refusal of the Hub becomes one line with what to do."""

from __future__ import annotations

import pytest

from surgery.errors import CheckpointError
from surgery_hub.address import source_address
from surgery_hub.listing import list_files
from surgery_hub.open import open_hub


def refusal(text: str) -> str:
    with pytest.raises(CheckpointError) as error:
        list_files(source_address(text)).download("missing.json")
    return str(error.value)


def test_a_repository_that_is_not_there(hub):
    assert refusal("org/none") == (
        "org/none: there is no such repository on the Hub, or it is private; check the name,"
        " or log in with `hf auth login`"
    )


def test_a_revision_that_is_not_there(hub):
    hub.add("org/x", {"a": b""})
    assert refusal("org/x@v9") == (
        "org/x@v9: the repository has no such revision; check the branch, tag or commit"
    )


def test_a_file_that_is_not_there(hub):
    hub.add("org/x", {"a": b""})
    assert refusal("org/x") == (
        "org/x/missing.json: the repository has no such file; check its files on the Hub"
    )


def test_a_private_repository_without_a_token(hub, monkeypatch):
    hub.add("org/x", {"a": b""})
    hub.repos["org/x"].private = True
    monkeypatch.delenv("HF_TOKEN")
    assert refusal("org/x").startswith("org/x: there is no such repository on the Hub, or it is private;")


def test_a_token_that_is_not_accepted(hub, monkeypatch):
    hub.add("org/x", {"a": b""})
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert refusal("org/x") == (
        "org/x: the Hub does not accept the token; log in with `hf auth login`,"
        " or set HF_TOKEN to one that is valid"
    )


def test_a_gated_repository(hub, tiny, monkeypatch):
    hub.add("other/x", tiny)
    hub.repos["other/x"].gated = True
    with pytest.raises(CheckpointError) as error:
        open_hub("other/x", tiny)
    assert str(error.value) == (
        "other/x/model.safetensors: is gated; ask for access on its page on the Hub,"
        " then log in with `hf auth login`"
    )


def test_no_connection(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = refusal("org/x")
    assert message.startswith("org/x: the Hub cannot be reached: ")
    assert message.endswith(
        "; check the network, then run again, or set HF_HUB_OFFLINE=1 to use what is in its cache"
    )
    assert "\n" not in message
