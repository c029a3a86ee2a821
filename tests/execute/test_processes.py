"""Several processes of one run: the same bytes as one, and no two that write the same output."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
import yaml

from surgery import ResourceError, RunOptions
from surgery.execute.device import World, device_memory, places, world

ONE = RunOptions(device="cpu", threads=1)

# Two processes as a launcher starts them, but forked from one that has torch imported.
PAIR = """
import json, os, sys, traceback
import torch, surgery, accelerate, surgery.execute.run, surgery.execute.syncer
surgery.execute.syncer.BATCH_SECONDS = 0.02
toys, *cases = sys.argv[1:]
for case in map(json.loads, cases):
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(case["port"])}
            said = {"rank": rank}
            try:
                plan = surgery.loads(case["recipe"], folder=".", plugins=[toys, "noting.py"]).resolve()
                report = plan.run(surgery.RunOptions(device="cpu", threads=1, chunk=case["chunk"]))
                said |= {"outputs": len(report.outputs), "resumed": report.resumed, "wrote": report.bytes_written}
            except (surgery.SurgeryError, KeyboardInterrupt) as error:
                said |= {"error": f"{type(error).__name__}: {error}"}
            except BaseException:
                traceback.print_exc()
            os.write(1, (json.dumps(said) + "\\n").encode())
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
"""


# A plugin that notes which process has written which tensor.
NOTING = """
import os
from surgery import hookimpl

@hookimpl
def surgery_job_done(job):
    with open(f"done-{os.environ['RANK']}", "a") as notes:
        print(job.output, job.tensor, file=notes)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


STEPS: dict[str, Any] = {
    "summed": {"op": "toy.linear", "models": {"a": 0.7, "b": 0.3}},
    "noisy": {"op": "toy.dither", "model": "summed", "factor": 0.1},
    "normed": {"op": "toy.norm", "model": "noisy"},
    "shared": {"op": "toy.share", "model": "normed"},
    "largest": {"op": "toy.largest", "models": ["shared"]},
    "gram": {"op": "toy.gram", "model": "largest", "where": "layers.2"},
}


SLOW = {"slow": {"op": "toy.slow", "model": "gram", "control": "control"}}
OUTPUTS = {
    "x": {"model": "gram", "to": "./pair-x", "shard_size": 500_000},
    "y": {"model": "noisy", "to": "./pair-y", "dtype": "bfloat16"},
}


def save_models(shop) -> None:
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        shapes = {f"layers.{layer}.{part}": (50 + 7 * layer, 300) for layer in range(4) for part in "qk"}
        tensors = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        shop.save(name, tensors | {"ids": torch.arange(7), "big": torch.randn(400_000, generator=generator)})


@pytest.fixture
def two(shop):
    save_models(shop)
    return shop


def launch(shop, toys, *documents: dict[str, Any]) -> list[dict[int, dict[str, Any]]]:
    """Run each recipe in two processes; return what each process said, by rank."""
    cases = [
        json.dumps({"recipe": yaml.safe_dump(d, sort_keys=False), "port": free_port(), "chunk": 3000})
        for d in documents
    ]
    printed, errors = shop.start(PAIR, toys, *cases).communicate(timeout=90)
    assert "Traceback" not in errors, errors
    said = [json.loads(line) for line in printed.splitlines()]
    return [{one["rank"]: one for one in said[i : i + 2]} for i in range(0, len(said), 2)]


ENDED = (
    "ResourceError: process {rank}: another process of this run has ended; see its message, then run again"
)


@pytest.fixture(scope="module")
def pair(workshop, tmp_path_factory, toys):
    """A folder in which two processes have run four recipes, and what they said of each."""
    shop = workshop(tmp_path_factory.mktemp("pair"))
    save_models(shop)
    bad = {"bad": {"op": "toy.bad", "model": "gram", "how": "raise", "where": "layers.3.k"}}
    (shop.folder / "noting.py").write_text(NOTING)
    shop.control = shop.folder / "control"
    shop.control.write_text("0.02 5 SIGTERM")
    work = shop.folder / "locked.partial" / ".surgery"
    work.mkdir(parents=True)
    with open(work / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        documents = [
            shop.document(STEPS, outputs=OUTPUTS),
            shop.document(STEPS | bad, to="failed"),
            shop.document(STEPS, to="locked"),
            shop.document(STEPS | SLOW, to="stopped"),
        ]
        shop.written, shop.failed, shop.locked, shop.stopped = launch(shop, toys, *documents)
    return shop


@pytest.mark.slow
def test_two_processes_write_what_one_writes(pair):
    alone = {name: output | {"to": output["to"].replace("pair", "one")} for name, output in OUTPUTS.items()}
    pair.recipe(STEPS, outputs=alone).run(ONE)
    assert len(pair.data("pair-x")) > 1
    for name in OUTPUTS:
        assert pair.data(f"pair-{name}") == pair.data(f"one-{name}")
        manifests = [
            (pair.folder / f"{kind}-{name}" / "surgery.json").read_text().replace(f"./{kind}-", "./out-")
            for kind in ("pair", "one")
        ]
        assert manifests[0] == manifests[1]


def test_each_process_does_its_share_and_the_first_publishes(pair):
    assert [pair.written[rank]["outputs"] for rank in (0, 1)] == [2, 0]
    notes = [(pair.folder / f"done-{rank}").read_text().splitlines() for rank in (0, 1)]
    done = [[line for line in lines if line[:2] in ("x ", "y ")] for lines in notes]
    assert all(done)
    both = [f"{name} {tensor}" for name in OUTPUTS for tensor in pair.read(f"pair-{name}")]
    assert sorted(done[0] + done[1]) == sorted(both)
    written = sum(t.nbytes for name in OUTPUTS for t in pair.read(f"pair-{name}").values())
    assert {said["wrote"] for said in pair.written.values()} == {written}


def test_an_error_in_one_process_ends_the_other_and_keeps_what_is_finished(pair):
    errors = {rank: said["error"] for rank, said in pair.failed.items()}
    blamed = [rank for rank in errors if errors[rank].startswith("OpError: step bad: `toy.bad` failed on ")]
    assert len(blamed) == 1
    assert errors[1 - blamed[0]] == ENDED.format(rank=1 - blamed[0])
    assert not (pair.folder / "failed").exists()
    pair.run(STEPS, ONE, to="failed")
    assert pair.report.resumed > 0


def test_while_another_run_writes_no_process_does(pair):
    busy = "ResourceError: locked.partial: another run is writing here; wait for it, or write somewhere else"
    assert {rank: said["error"] for rank, said in pair.locked.items()} == {0: busy, 1: ENDED.format(rank=1)}
    assert [path.name for path in (pair.folder / "locked.partial").iterdir()] == [".surgery"]


def test_one_process_goes_on_from_what_two_have_journaled(pair, monkeypatch):
    assert not (pair.folder / "stopped").exists()
    assert any("KeyboardInterrupt" in said.get("error", "") for said in pair.stopped.values()), pair.stopped
    journals = (pair.folder / "stopped.partial" / ".surgery").glob("journal-*.jsonl")
    journaled = {line for file in journals for line in file.read_text().splitlines()[1:]}
    monkeypatch.chdir(pair.folder)
    pair.control.write_text("0 0 SIGTERM")
    pair.run(STEPS | SLOW, ONE, to="stopped")
    assert pair.report.resumed == len(journaled) > 0
    pair.run(STEPS | SLOW, ONE, to="straight")
    assert pair.data("stopped") == pair.data("straight")


@pytest.mark.slow
def test_accelerate_launch_writes_what_one_process_writes(two, toys):
    recipe = two.write(STEPS)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += [
        "--main_process_port",
        str(free_port()),
        "-m",
        "surgery",
        "run",
        str(recipe),
        "--plugin",
        str(toys),
    ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=two.folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("output") == 2, "one process tells of one output"
    two.run(STEPS, ONE, to="one")
    assert two.data() == two.data("one")


class Alone:
    """What accelerate says in processes that do not know of each other."""

    num_processes = 1
    process_index = 0
    device = "cpu"

    def __init__(self, cpu: bool) -> None:
        assert cpu


def test_processes_that_do_not_know_of_each_other_are_refused(two, monkeypatch):
    monkeypatch.setattr("accelerate.PartialState", Alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ResourceError) as error:
        two.run(STEPS, ONE)
    assert str(error.value) == (
        "2 processes were started but each believes to be one of 1; "
        "on machines without a GPU set ACCELERATE_USE_CPU=1 before `accelerate launch --multi_gpu`"
    )
    assert not any(path.name.startswith("out") for path in two.folder.iterdir())


def test_a_device_that_is_not_there_is_refused(two, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ResourceError) as error:
        two.run(STEPS, RunOptions(device="cuda"))
    assert str(error.value) == "--device cuda: this machine has no CUDA device; use --device cpu"


def test_one_process_needs_no_accelerate(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("accelerate.PartialState", None)
    here = world("cpu")
    assert (here.rank, here.size, here.device.type) == (0, 1, "cpu")
    assert here.gather("thing") == ["thing"]
    here.wait()


def test_a_cpu_has_a_place_for_each_worker_and_no_memory_of_its_own():
    assert [place.device.type for place in places(World(), 3)] == ["cpu"] * 3
    assert device_memory(World()) is None
