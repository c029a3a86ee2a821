"""A run that is killed while it uploads, and the one after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surgery.testing.tiny import save_tiny
from tests.hub.fixtures import environment

RECIPE = """
surgery: 1
models: {base: org/large}
steps: {half: {op: merge.linear, models: {base: 0.5}}}
output: {model: half, to: "hub:me/half", shard_size: 300KB}
"""


@pytest.fixture
def start(hub, tmp_path):
    """Start `surgery run` on the recipe in a process of its own; its cache and token are its own too."""
    hub.add("org/large", save_tiny(tmp_path / "large", seed=3, dtype="float32", hidden=128, layers=3))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mix.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "surgery", "run", "mix.yaml", "--threads", "1"]
    settings = {**os.environ, **environment(hub, tmp_path / "home")}

    def begin() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=tmp_path / "work", env=settings, stdout=pipe, stderr=pipe, text=True
        )

    return begin


def test_a_run_killed_while_uploading_sends_only_what_is_missing(hub, start, tmp_path: Path):
    hub.rate = 1_000_000
    run = start()
    deadline = time.monotonic() + 60
    while hub.count("POST .*verify") < 2:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    hub.rate = 0
    before = {path.name for path in hub.folder.iterdir() if len(path.name) == 64}
    assert hub.files("me/half").keys() == {".gitattributes"}
    assert [path.name for path in (tmp_path / "work").iterdir() if path.is_dir()] == ["me--half.partial"]
    hub.requests.clear()
    run = start()
    out, err = run.communicate(timeout=100)
    assert run.returncode == 0, err
    assert "tensors were kept from an interrupted run" in out
    sent = {seen.path.removeprefix("/upload/") for seen in hub.requests if seen.method == "PUT"}
    shards = {blob.sha256 for blob in hub.repos["me/half"].at("main").files.values() if blob.sha256}
    assert sent <= shards - before  # what was on its way at the kill may have arrived since
    assert len(before & shards) >= 2
    assert hub.count("POST .*commit") == 1
    # the source came once: the cache has it
    assert hub.count("GET /lfs") == 0


def test_ctrl_c_while_uploading_says_how_to_go_on(hub, start):
    hub.rate = 500_000
    run = start()
    deadline = time.monotonic() + 60
    while hub.count("PUT") < 1:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "run the same command again to continue" in err
    assert "Traceback" not in err
