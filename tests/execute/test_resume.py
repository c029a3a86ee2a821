"""A run that was stopped, however, goes on from what is safely on disk, and ends in the same bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery import CheckpointError, OpError, RunOptions

ONE = RunOptions(device="cpu", threads=1)
TENSORS = 12


@dataclass
class Slowly:
    """Runs a chain that is stopped from outside of the recipe."""

    shop: Any
    control: Path

    def say(self, seconds: float = 0, at: int = 0, signal: str = "SIGINT") -> None:
        self.control.write_text(f"{seconds} {at} {signal}")
        self.log.unlink(missing_ok=True)

    @property
    def log(self) -> Path:
        return self.control.with_name("control.log")

    @property
    def computed(self) -> int:
        """Return how many chunks the slow op has seen since `say`."""
        return self.log.stat().st_size if self.log.exists() else 0

    def steps(self, factor: Any = 3.0) -> dict[str, Any]:
        return {
            "slow": {"op": "toy.slow", "model": "a", "control": str(self.control)},
            "noisy": {"op": "toy.dither", "model": "slow", "factor": 0.5},
            "largest": {"op": "toy.largest", "models": ["noisy"], "where": ["w00", "w01"]},
            "end": {"op": "toy.scale", "model": "largest", "factor": factor},
        }

    def run(self, options: RunOptions = ONE, factor: Any = 3.0, **top: Any) -> int:
        """Run to the end; return how many tensors were kept."""
        self.shop.run(self.steps(factor), options, **top)
        return self.shop.report.resumed

    def stop(self, at: int = 12, signal: str = "SIGINT", **top: Any) -> None:
        self.say(0.01, at, signal)
        with pytest.raises(KeyboardInterrupt):
            self.run(**top)
        self.say()

    def straight(self, options: RunOptions = ONE, **top: Any) -> dict[str, bytes]:
        """Return the bytes of a run that nobody stops."""
        self.run(options, to="straight", **top)
        return self.shop.data("straight")

    @property
    def partial(self) -> Path:
        return self.shop.folder / "out.partial"

    @property
    def journal(self) -> Path:
        return self.partial / ".surgery" / "journal-0.jsonl"

    @property
    def journaled(self) -> list[str]:
        return [json.loads(line)[0] for line in self.journal.read_text().splitlines()[1:]]


@pytest.fixture
def slowly(shop, monkeypatch) -> Slowly:
    monkeypatch.setattr("surgery.execute.syncer.BATCH_SECONDS", 0.02)
    tensors = {f"w{i:02}": torch.randn(300 * (i + 1)) for i in range(TENSORS)}
    shop.save("a", tensors | {"ids": torch.arange(9)})
    return Slowly(shop, shop.folder / "control")


@pytest.fixture
def stopped(slowly) -> Slowly:
    """A run that was stopped when some tensors were finished and some were not."""
    slowly.stop()
    assert 3 <= len(slowly.journaled) < TENSORS
    return slowly


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_the_run_and_keeps_what_is_finished(slowly, signal):
    slowly.stop(signal=signal)
    assert not (slowly.shop.folder / "out").exists()
    assert (slowly.partial / "model.safetensors").exists()
    kept = len(slowly.journaled)
    assert 3 <= kept < TENSORS
    assert slowly.run() == kept
    assert not slowly.partial.exists()
    assert slowly.shop.data() == slowly.straight()


def test_what_is_kept_is_not_computed_again(stopped):
    kept = len(stopped.journaled)
    stopped.run()
    again = stopped.computed
    written = stopped.shop.report.bytes_written
    stopped.say()
    stopped.straight()
    # what is gathered over the model is gathered anew if w00 or w01 is not finished
    assert stopped.computed - again >= kept - 1
    assert written < stopped.shop.report.bytes_written


def test_a_finished_run_that_was_not_published_is_only_published(slowly, monkeypatch):
    slowly.say()
    monkeypatch.setattr(
        "surgery.execute.run.publish", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        slowly.run()
    monkeypatch.undo()
    slowly.say()
    assert slowly.run() == TENSORS + 1
    assert slowly.computed == 0
    assert slowly.shop.report.bytes_read == 0


def test_without_resume_a_run_starts_over(stopped):
    assert stopped.run(RunOptions(device="cpu", resume=False)) == 0
    assert stopped.shop.data() == stopped.straight()


def test_a_torn_last_line_counts_as_not_written(stopped):
    before = len(stopped.journaled)
    stopped.journal.write_bytes(stopped.journal.read_bytes()[:-7])
    assert stopped.run() == before - 1
    assert stopped.shop.data() == stopped.straight()


def test_a_journal_that_is_damaged_is_not_trusted_and_may_be_thrown_away(stopped):
    lines = stopped.journal.read_bytes().splitlines(keepends=True)
    stopped.journal.write_bytes(b"".join([lines[0], b"garbage\n", *lines[1:]]))
    with pytest.raises(CheckpointError) as error:
        stopped.run()
    assert str(error.value) == f"{stopped.journal}:2: is damaged; run with --no-resume"
    assert stopped.run(RunOptions(device="cpu", resume=False)) == 0
    assert stopped.shop.data() == stopped.straight()


def test_bytes_that_were_changed_on_disk_are_computed_again(stopped):
    kept = stopped.journaled
    shard = stopped.partial / "model.safetensors"
    data = bytearray(shard.read_bytes())
    # the first tensor behind the header that is journaled
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    at = 8 + size + header[kept[-1]]["data_offsets"][0]
    data[at] ^= 1
    shard.write_bytes(data)
    assert stopped.run() == len(kept) - 1
    assert stopped.shop.data() == stopped.straight()


def test_a_changed_recipe_keeps_the_tensors_that_it_does_not_change(stopped):
    kept = stopped.journaled
    factor = {kept[-1]: 7.0, "default": 3.0}
    assert stopped.run(factor=factor) == len(kept) - 1
    assert stopped.shop.data() == stopped.straight(factor=factor)


@pytest.mark.parametrize("change", [{"seed": 1}, {"on_nonfinite": "zero"}, {"dtype": "float64"}])
def test_what_changes_every_tensor_keeps_none_but_integers(stopped, change):
    kept = stopped.journaled
    assert stopped.run(**change) <= ("ids" in kept)
    assert stopped.shop.data() == stopped.straight(**change)


def test_a_changed_input_file_keeps_nothing_of_it(stopped):
    stopped.shop.save("a", {name: t + 1 for name, t in stopped.shop.read("a").items()})
    assert stopped.run() == 0
    assert stopped.shop.data() == stopped.straight()


def test_another_layout_of_shards_keeps_nothing(stopped):
    top = {"output": {"model": "end", "to": "./out", "shard_size": 40_000}}
    assert stopped.run(**top) == 0
    assert len(stopped.shop.data()) == 3
    assert sorted(p.name for p in (stopped.shop.folder / "out").iterdir()) == [
        "README.md",
        *sorted(stopped.shop.data()),
        "model.safetensors.index.json",
        "report.json",
        "surgery.json",
    ]


def test_what_other_programs_left_in_the_partial_folder_is_not_published(stopped):
    (stopped.partial / "leftover.bin").write_text("x")
    (stopped.partial / "config.json").write_text("{}")
    (stopped.partial / ".surgery" / "journal.new").write_text("torn")
    stopped.run()
    assert sorted(path.name for path in (stopped.shop.folder / "out").iterdir()) == [
        "README.md",
        "model.safetensors",
        "report.json",
        "surgery.json",
    ]


def test_journals_of_several_processes_are_joined(stopped):
    lines = stopped.journal.read_bytes().splitlines(keepends=True)
    other = stopped.journal.with_name("journal-1.jsonl")
    other.write_bytes(lines[0] + lines[-1])
    stopped.journal.write_bytes(b"".join(lines[:-1]))
    assert stopped.run() == len(lines) - 1
    assert stopped.shop.data() == stopped.straight()


def test_an_op_that_fails_keeps_what_was_finished_before(slowly):
    slowly.say()
    steps = slowly.steps() | {"bad": {"op": "toy.bad", "model": "end", "how": "raise", "where": "w11"}}
    with pytest.raises(OpError):
        slowly.shop.run(steps, ONE)
    kept = len(slowly.journaled)
    assert kept == TENSORS  # all but w11
    steps["bad"]["where"] = "w10"
    with pytest.raises(OpError):
        slowly.shop.run(steps, ONE)
    del steps["bad"]
    slowly.shop.run(steps, ONE)
    assert slowly.shop.report.resumed >= TENSORS - 1


def test_several_outputs_resume_each(slowly):
    outputs = {name: {"model": name, "to": f"./out-{name}"} for name in ("noisy", "end")}
    slowly.say(0.01, 12)
    with pytest.raises(KeyboardInterrupt):
        slowly.shop.recipe(slowly.steps(), outputs=outputs).run(ONE)
    slowly.say()
    report = slowly.shop.recipe(slowly.steps(), outputs=outputs).run(ONE)
    assert report.resumed >= 4
    assert slowly.shop.data("out-end") == slowly.straight()


KILLER = """
import os, random, signal, sys, time
import torch, surgery, surgery.execute.run, surgery.execute.syncer
surgery.execute.syncer.BATCH_SECONDS = 0.02
recipe, toys, log, *seeds = sys.argv[1:]
for seed in seeds:
    child = os.fork()
    if child == 0:
        surgery.load(recipe, plugins=[toys]).run(surgery.RunOptions(device="cpu", threads=2, chunk=3000))
        os._exit(0)
    moment = random.Random(seed)
    chunks = moment.randint(5, 20)
    while not os.path.exists(log) or os.path.getsize(log) < chunks:
        time.sleep(0.002)
    time.sleep(moment.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1])
    os.rename(log, log + seed)
"""


@pytest.mark.slow
def test_kills_at_random_moments_lose_at_most_what_is_in_flight(slowly, toys):
    tensors = {f"w{i:02}": torch.randn(2000 + 200 * i) for i in range(60)}
    slowly.shop.save("a", tensors)
    slowly.say(0.02)
    recipe = slowly.shop.write(slowly.steps())
    killer = slowly.shop.start(KILLER, recipe, toys, slowly.log, *range(5))
    printed, errors = killer.communicate(timeout=60)
    assert (killer.returncode, errors) == (0, "")
    assert printed.split() == ["9"] * 5
    assert not (slowly.shop.folder / "out").exists()
    slowly.say()
    options = RunOptions(device="cpu", threads=2, chunk=3000)
    assert slowly.run(options) > 0
    finishing = slowly.computed
    written = slowly.shop.report.bytes_written
    slowly.say()
    assert slowly.shop.data() == slowly.straight(options)
    assert finishing < slowly.computed
    assert written < slowly.shop.report.bytes_written
