"""A run that is killed anywhere goes on from what is on disk and ends in the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import yaml

from surgery import RunOptions
from surgery.calibrate.sequence import Sequence

STEPS = {"x": {"op": "cal.seen", "model": "base", "where": "mlp", "factor": 2.0}}
ONE = RunOptions(device="cpu", threads=1)

# Each run is a fork of one process that has everything imported; all but the last are killed after some time.
KILLED = """
import json, os, random, signal, sys, time, traceback
import torch, surgery, surgery.execute.run, surgery.calibrate.runner, transformers
from surgery.calibrate.sequence import Sequence

os.environ["TOKENIZERS_PARALLELISM"] = "false"
surgery.calibrate.runner.Calibrator(surgery.load("recipe.yaml", plugins=["toys.py"]).resolve().plan)
options = surgery.RunOptions(device="cpu", threads=2)

def run(told):
    if told is not None:  # slowly, with a word after each sample, so that kills hit every stage on any machine
        samples = Sequence._samples
        def slow(self, work):
            def one(sample, ids):
                time.sleep(0.03)
                work(sample, ids)
                os.write(told, b".")
            samples(self, one)
        Sequence._samples = slow
    surgery.load("recipe.yaml", plugins=["toys.py"]).run(options)

def fork(told):
    child = os.fork()
    if child == 0:
        try:
            run(told)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    if told is not None:
        os.close(told)
    return child

random.seed(int(sys.argv[1]))
deaths = []
for _ in range(6):
    if os.path.exists("out"):
        break
    heard, told = os.pipe()
    child = fork(told)
    for _ in range(random.randint(1, 11)):  # a pass runs six samples
        if not os.read(heard, 1):
            break
    time.sleep(random.uniform(0, 0.06))
    work = "out.partial/.surgery"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(heard)
    folders = os.listdir(work) if os.path.isdir(work) else []
    deaths.append(sorted(f for name in folders if name.startswith("cal") for f in os.listdir(f"{work}/{name}")))
if not os.path.exists("out"):
    os.waitpid(fork(None), 0)
print(json.dumps(deaths))
"""


@pytest.mark.slow
def test_a_run_killed_at_random_ends_in_the_bytes_of_one_that_was_not(bench):
    bench.run(STEPS, to="straight")
    document = bench.document(STEPS)
    (bench.folder / "recipe.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, "0"],
        cwd=bench.folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    assert ran.stderr == ""
    deaths = json.loads(ran.stdout)
    assert len({str(files) for files in deaths}) > 2, deaths  # killed at different stages
    assert bench.data("out") == bench.data("straight")


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """How many samples each pass over the text ran through a block."""
    seen: list[int] = []
    samples = Sequence._samples

    def counted(self, work):
        seen.append(0)

        def one(sample, ids):
            seen[-1] += 1
            work(sample, ids)

        samples(self, one)

    monkeypatch.setattr(Sequence, "_samples", counted)
    return seen


def stopped(bench, monkeypatch, when: int) -> None:
    """Run until a pass over the text, the first being 1, begins."""
    samples, count = Sequence._samples, [0]

    def until(self, work):
        count[0] += 1
        if count[0] == when:
            raise KeyboardInterrupt
        samples(self, work)

    with monkeypatch.context() as patch:
        patch.setattr(Sequence, "_samples", until)
        with pytest.raises(KeyboardInterrupt):
            bench.run(STEPS, ONE)


# embeddings, then two passes for each block but the last, whose outputs nobody needs
@pytest.mark.parametrize(("when", "left"), [(1, 6), (2, 5), (3, 4), (4, 3), (5, 2), (6, 1)])
def test_passes_that_were_finished_are_not_run_again(bench, monkeypatch, passes, when, left):
    straight = bench.run(STEPS, ONE, to="straight")
    assert passes == [6] * 6
    stopped(bench, monkeypatch, when)
    passes.clear()
    again = bench.run(STEPS, ONE)
    assert passes == [6] * left
    assert all(torch.equal(again[name], tensor) for name, tensor in straight.items())


def test_another_text_or_no_resume_begins_again(bench, monkeypatch, passes):
    stopped(bench, monkeypatch, 5)
    passes.clear()
    bench.run(STEPS, RunOptions(device="cpu", threads=1, resume=False))
    assert len(passes) == 6
    (bench.folder / "out").rename(bench.folder / "before")
    stopped(bench, monkeypatch, 5)
    (bench.folder / "text.txt").write_text((bench.folder / "text.txt").read_text()[::-1])
    passes.clear()
    bench.run(STEPS, ONE)
    assert len(passes) == 6


def test_statistics_that_someone_removed_are_computed_again(bench, monkeypatch, passes):
    straight = bench.run(STEPS, ONE, to="straight")
    stopped(bench, monkeypatch, 5)
    (kept,) = (bench.folder / "out.partial" / ".surgery").glob("calibration-*/block-0.safetensors")
    kept.unlink()
    again = bench.run(STEPS, ONE)
    assert all(torch.equal(again[name], tensor) for name, tensor in straight.items())
