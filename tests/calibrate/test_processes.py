"""Several processes: the first runs the model, the others are told, and the bytes are those of one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest
import yaml

STEPS = {"x": {"op": "cal.seen", "model": "base", "where": ["mlp", "lm_head.weight"]}}

# Two processes as a launcher starts them, but forked from one that has torch imported.
PAIR = """
import json, os, sys, traceback
import torch, surgery, accelerate, surgery.execute.run, surgery.calibrate.runner, transformers
from surgery.calibrate.sequence import Sequence
children = []
for rank in range(2):
    child = os.fork()
    if child == 0:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[1], "TOKENIZERS_PARALLELISM": "false"}
        passes, samples = [], Sequence._samples
        Sequence._samples = lambda self, work: passes.append(1) or samples(self, work)
        try:
            surgery.load("recipe.yaml", plugins=["toys.py"]).run(surgery.RunOptions(device="cpu", threads=1))
            os.write(1, (json.dumps([rank, len(passes)]) + "\\n").encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_two_processes_write_what_one_does(bench):
    bench.run(STEPS, to="straight")
    (bench.folder / "recipe.yaml").write_text(yaml.safe_dump(bench.document(STEPS), sort_keys=False))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ran = subprocess.run(
        [sys.executable, "-c", PAIR, str(port)],
        cwd=bench.folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "Traceback" not in ran.stderr, ran.stderr
    # embeddings, two passes for each of three blocks, the head
    assert sorted(map(json.loads, ran.stdout.splitlines())) == [[0, 8], [1, 0]]
    assert bench.data("out") == bench.data("straight")
