"""Publishers are told of each file once it is complete, and asked for everything before work begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import surgery
from surgery import CheckpointError, PlanError, RunOptions

CPU = RunOptions(device="cpu", threads=1)
PLUGIN = """
from pathlib import Path
import surgery
from surgery.checkpoint.base_publisher import Destination, Publisher

told = []

class Shelf(Publisher):
    def __init__(self, rest, private):
        self.place = f"shelf:{rest}"
        self.refuse = rest
        told.append(("open", rest, private))

    def begin(self):
        told.append(("begin",))
        if self.refuse == "begin":
            raise surgery.CheckpointError("shelf:begin: is closed; come again tomorrow")

    def file_done(self, path):
        told.append(("file", path.name, path.stat().st_size))
        if self.refuse == "file":
            raise surgery.CheckpointError("shelf:file: is full; clear it")

    def finish(self, folder):
        told.append(("finish", sorted(path.name for path in folder.iterdir() if path.is_file())))
        if self.refuse == "finish":
            raise surgery.CheckpointError("shelf:finish: fell over; put it up")
        return "shelf://" + self.refuse

    def doing(self):
        return "dusting"

    def close(self):
        told.append(("close",))

def check(rest):
    return "is no shelf; write `shelf:1`" if not rest else ""

@surgery.hookimpl
def surgery_register_destinations():
    return [Destination("shelf", check, Shelf, lambda rest: "on-" + rest)]
"""


@pytest.fixture
def run(shop, tmp_path):
    """Run a recipe that publishes to a shelf; return what the publisher was told, and the report."""
    shop.save("a", {f"w{i}": torch.full((100,), float(i)) for i in range(6)})
    plugin = tmp_path / "shelf_plugin.py"
    plugin.write_text(PLUGIN)

    def go(to: str = "shelf:1", options: RunOptions = CPU, **output):
        steps = {"m": {"op": "merge.linear", "models": {"a": 0.5}}}
        wanted = {"model": "m", "to": to, "shard_size": 800, **output}
        text = yaml.safe_dump(shop.document(steps, output=wanted))
        loaded = surgery.loads(text, folder=tmp_path, plugins=[plugin])
        told = loaded.host.load(loaded.host.files["shelf_plugin"]).module.told
        told.clear()
        go.told, go.report = told, None
        go.report = loaded.run(options)
        return told

    return go


def test_a_publisher_is_told_of_every_shard_then_of_the_folder(run, tmp_path):
    told = run(private=True)
    assert told[:2] == [("open", "1", True), ("begin",)]
    shards = [entry for entry in told if entry[0] == "file"]
    assert sorted(name for _, name, _ in shards) == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    names = next(entry[1] for entry in told if entry[0] == "finish")
    assert {"model.safetensors.index.json", "surgery.json", shards[0][1]} < set(names)
    assert told[-1] == ("close",)
    assert run.report.outputs[0].url == "shelf://1"
    assert not (tmp_path / "on-1.partial").exists()
    assert not (tmp_path / "on-1").exists()


def test_an_output_that_is_kept_is_renamed_to_its_place(run, tmp_path):
    run(keep="./kept")
    assert (tmp_path / "kept" / "surgery.json").is_file()
    with pytest.raises(PlanError) as error:
        run(keep="./kept")
    assert str(error.value).endswith(
        f"output.keep: {tmp_path / 'kept'} exists and is not empty; choose another folder or pass --force"
    )


def test_a_refusal_at_the_beginning_costs_nothing(run, tmp_path):
    with pytest.raises(CheckpointError, match="shelf:begin: is closed; come again tomorrow"):
        run("shelf:begin")
    assert run.told == [("open", "begin", False), ("begin",), ("close",)]
    assert not list(tmp_path.glob("on-*"))


@pytest.mark.parametrize("when", ["file", "finish"])
def test_what_was_computed_stays_when_publishing_fails_and_is_handed_over_again(run, tmp_path, when):
    with pytest.raises(CheckpointError, match=f"shelf:{when}: "):
        run(f"shelf:{when}")
    assert (tmp_path / f"on-{when}.partial").is_dir()
    with pytest.raises(CheckpointError, match=f"shelf:{when}: "):
        run(f"shelf:{when}")
    # complete before anything is computed: told at once
    assert [entry[0] for entry in run.told[:3]] == ["open", "begin", "file"]


def test_out_goes_before_to(shop, run, tmp_path):
    run()
    plugin = tmp_path / "shelf_plugin.py"
    text = yaml.safe_dump(shop.document({"m": {"op": "merge.linear", "models": {"a": 0.5}}}, to="shelf:1"))
    loaded = surgery.loads(text, folder=tmp_path, plugins=[plugin])
    assert loaded.run(CPU, out=tmp_path / "here").outputs[0].url == ""
    assert (tmp_path / "here" / "surgery.json").is_file()
    assert loaded.run(CPU, out=Path("shelf:2")).outputs[0].url == "shelf://2"


def test_progress_says_what_is_published(shop, run, tmp_path, monkeypatch):
    run()
    notes = set()
    plugin = tmp_path / "shelf_plugin.py"
    steps = {"m": {"op": "toy.slow", "model": "a", "seconds": 0.05}}
    text = yaml.safe_dump(shop.document(steps, to="shelf:1"))
    toys = Path(__file__).parent / "toy_ops.py"
    surgery.loads(text, folder=tmp_path, plugins=[plugin, toys]).run(
        CPU, listener=lambda progress: notes.add(progress.note)
    )
    assert notes == {"dusting"}
