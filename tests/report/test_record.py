from __future__ import annotations

import json
from pathlib import Path

import pytest

import surgery
from surgery import CheckpointError, RunOptions
from surgery.report.record import read_report

CPU = RunOptions(device="cpu", threads=1)


def test_what_ran_is_told(out):
    found = read_report(out)
    assert (found["output"], found["device"], found["workers"], found["processes"]) == ("output", "cpu", 1, 1)
    assert (found["bytes_read"], found["bytes_written"], found["resumed"]) == (384, 192, 0)
    assert found["surgery"] == surgery.__version__
    assert {"hf", "merge"} <= found["plugins"].keys()
    assert found["torch"].startswith("2.")
    assert 0 < found["seconds"] < 60


def test_every_tensor_is_told_with_what_made_it(out):
    assert read_report(out)["tensors"][1] == {
        "name": "model.layers.0.mlp.up.weight",
        "shape": [4, 4],
        "dtype": "F32",
        "bytes": 64,
        "step": "mixed",
        "op": "merge.linear",
        "from": {"model": "base", "tensor": "model.layers.0.mlp.up.weight"},
    }


def test_what_ops_noted_stands_beside_the_tensor(shop):
    # 1·1ᵀ in every place: the fine-tune changed each layer by a matrix of rank one and of squares 16
    step = "{op: adapter.extract, base: base, model: code, rank: 2}"
    text = (shop / "mix.yaml").read_text().replace("{op: merge.linear, models: {base: 0.5, code: 0.5}}", step)
    (shop / "mix.yaml").write_text(text)
    surgery.load("mix.yaml").run(CPU)
    first, *others = read_report(shop / "out")["tensors"]
    (noted,) = first["notes"]
    assert (noted["step"], noted["tensor"]) == ("mixed", "model.layers.0.mlp.up.weight")
    assert noted["numbers"]["energy"] == pytest.approx(1, abs=1e-12)
    assert others[0]["notes"] == [noted]  # the other factor of the same change


def test_tensors_that_nothing_was_noted_of_have_no_notes(out):
    assert all("notes" not in tensor for tensor in read_report(out)["tensors"])


def test_samples_begin_before_the_work_and_end_behind_it(out):
    samples = read_report(out)["samples"]
    assert samples["read"][0] == samples["written"][0] == 0
    assert (samples["read"][-1], samples["written"][-1]) == (384, 192)
    assert samples["seconds"] == sorted(samples["seconds"])
    assert all(rss > 1_000_000 for rss in samples["rss"])


def test_it_is_there_when_the_output_appears(shop):
    seen = []
    rename = Path.rename

    def watched(self: Path, target: Path) -> Path:
        if self.is_dir():
            seen.append(sorted(path.name for path in self.iterdir() if path.is_file()))
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", watched)
        surgery.load("mix.yaml").run(CPU)
    assert seen == [["README.md", "config.json", "model.safetensors", "report.json", "surgery.json"]]


def test_two_runs_differ_in_it_and_in_the_card_alone(shop):
    for _ in range(2):
        surgery.load("mix.yaml").run(RunOptions(device="cpu", threads=1, force=True))
        data = {p.name: p.read_bytes() for p in (shop / "out").iterdir() if p.name not in LEFT}
        shop.joinpath("before").mkdir(exist_ok=True)
        for name, value in data.items():
            kept = shop / "before" / name
            assert not kept.exists() or kept.read_bytes() == value
            kept.write_bytes(value)
    assert sorted(data) == ["config.json", "model.safetensors", "surgery.json"]


LEFT = ("README.md", "report.json")


def test_no_path_of_this_machine_and_no_token_is_left_anywhere(shop):
    text = (shop / "mix.yaml").read_text()
    text = text.replace("./base", str(shop / "base")).replace("./out", str(shop / "elsewhere" / "out"))
    (shop / "mix.yaml").write_text(f"# run with hf_{'a' * 30} in {shop}/notes\n{text}")
    surgery.load(shop / "mix.yaml").run(CPU)
    for path in (shop / "elsewhere" / "out").iterdir():
        data = path.read_bytes()
        assert str(shop).encode() not in data
        assert b"hf_aaa" not in data


def test_warnings_are_told_without_paths(shop):
    text = (shop / "mix.yaml").read_text().replace("steps:", "  unused: ./base\nsteps:")
    (shop / "mix.yaml").write_text(text)
    surgery.load(shop / "mix.yaml").run(CPU)
    (warning,) = read_report(shop / "out")["warnings"]
    assert (warning["where"], warning["path"]) == ("mix.yaml:5:3", "models.unused")


def test_a_card_of_an_ops_own_is_left_alone(shop):
    (shop / "base" / "generation_config.json").write_text("{}")
    loaded = surgery.load("mix.yaml").resolve()
    (output,) = loaded.plan.outputs
    output.sidecars["README.md"] = shop / "mix.yaml"  # as a plugin's `surgery_rewrite_plan` may
    loaded.run(CPU)
    assert (shop / "out" / "README.md").read_text() == (shop / "mix.yaml").read_text()
    assert (shop / "out" / "report.json").is_file()


def test_a_folder_without_it_has_nothing_to_tell(shop):
    assert read_report(shop / "base") == {}


def test_another_format_is_refused(shop):
    (shop / "base" / "report.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(CheckpointError) as error:
        read_report(shop / "base")
    assert str(error.value) == f"{shop}/base/report.json: is of format `2`, this release reads format 1"
