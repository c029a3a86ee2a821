"""A folder with two models whose numbers can be checked by hand, and their merge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import surgery
from surgery import RunOptions

RECIPE = """\
surgery: 1
models:
  base: ./base
  code: ./code
steps:
  mixed: {op: merge.linear, models: {base: 0.5, code: 0.5}}
output: {model: mixed, to: ./out}
"""

NAMES = ("model.embed.weight", "model.layers.0.mlp.up.weight", "model.layers.1.mlp.up.weight")


def save(folder: Path, value: float, config: dict | None = None) -> None:
    """Save a model: an embedding of ones, and two layers of `value`."""
    folder.mkdir()
    values = (1.0, value, value)
    tensors = {name: torch.full((4, 4), v) for name, v in zip(NAMES, values, strict=True)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "x"}))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: `base` (layers of 2), `code` (layers of 3), `mix.yaml`."""
    save(tmp_path / "base", 2.0)
    save(tmp_path / "code", 3.0)
    (tmp_path / "mix.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def out(shop: Path) -> Path:
    """The merge: layers of 2.5."""
    surgery.load("mix.yaml").run(RunOptions(device="cpu", threads=1))
    return shop / "out"
