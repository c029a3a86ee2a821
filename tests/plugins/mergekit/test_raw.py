"""Documents whose models are files."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import surgery
from surgery.cli.main import cli
from surgery_mergekit._raw import is_raw

TEXT = """
merge_method: task_arithmetic
base_model: base.safetensors
models:
  - {model: a.pt, parameters: {weight: [0.25, 1]}}
  - {model: b.safetensors, parameters: {weight: [{filter: head, value: 3}, {value: 0.5}]}}
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A base of ones and two files whose deltas are 4 and 8, of two layers and a head."""
    monkeypatch.chdir(tmp_path)
    names = "blocks.0.w", "blocks.0.v", "blocks.1.w", "blocks.1.v", "head.w"
    for name, value in (("base", 1.0), ("a", 5.0), ("b", 9.0)):
        tensors = {key: torch.full((2, 2), value) for key in names} | {"steps": torch.tensor([3])}
        torch.save(tensors, "a.pt") if name == "a" else save_file(tensors, f"{name}.safetensors")
    (tmp_path / "raw.yaml").write_text(TEXT)
    return tmp_path


def test_files_are_merged_by_name_and_a_gradient_stays_at_its_first_number(files):
    done = CliRunner().invoke(cli, ["run", "raw.yaml", "--out", "out"])
    assert done.exit_code == 0, done.output
    assert "a gradient over layers, which files have none of: its first number is used" in done.output
    made = load_file(files / "out" / "model.safetensors")
    assert made.pop("steps").tolist() == [3]
    assert {name: x[0, 0].item() for name, x in made.items()} == {
        **dict.fromkeys(("blocks.0.w", "blocks.0.v", "blocks.1.w", "blocks.1.v"), 1 + 0.25 * 4 + 0.5 * 8),
        "head.w": 1 + 0.25 * 4 + 3 * 8,
    }


def test_a_tensor_that_a_file_lacks_is_an_error(files):
    tensors = load_file("b.safetensors")
    del tensors["head.w"]
    save_file(tensors, "b.safetensors")
    with pytest.raises(surgery.SurgeryError, match=r"tensor head\.w is missing in `b\.safetensors`"):
        surgery.load(files / "raw.yaml").resolve(out=files / "out")


@pytest.mark.parametrize(
    ("models", "base", "raw"),
    [
        (["a.pt", "b.safetensors"], None, True),
        (["a.bin"], "b.pth", True),
        (["a.bin"], "folder", False),
        (["a.bin", "org/name"], None, False),
        ([], None, False),
    ],
)
def test_documents_are_told_by_the_names_of_their_models(models, base, raw):
    assert is_raw({"models": [{"model": name} for name in models], "base_model": base}) is raw
