"""A loopback Hub for tests: of this process by the fixture `hub`, of others by the environment it stands for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.hub.server import TOKEN, LoopbackHub


def environment(hub: LoopbackHub, home: Path) -> dict[str, str]:
    """Return the variables by which another process uses the Hub; its client reads them when it is imported."""
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub that this process's client talks to; empty cache, no waiting between attempts."""
    from huggingface_hub import close_session, constants

    from surgery_hub import client

    home = tmp_path_factory.mktemp("hf")
    with LoopbackHub(tmp_path_factory.mktemp("store")).serving() as served:
        for name, value in environment(served, home).items():
            monkeypatch.setenv(name, value)
        for name, value in {
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
        monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
        with warnings.catch_warnings():
            # the client uploads files in a way that its own HTTP library has deprecated
            warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
            yield served
        close_session()
