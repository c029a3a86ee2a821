"""Runs a step on a tiny Llama and loads what comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import surgery
from surgery import RunOptions
from surgery.testing import save_tiny

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def tiny(tmp_path: Path) -> Tensors:
    """The tensors of a model that recipes call `base`."""
    return load_file(save_tiny(tmp_path / "base", dtype="bfloat16", hidden=32) / "model.safetensors")


@pytest.fixture
def recipe(tmp_path: Path, tiny: Tensors) -> Callable[..., surgery.LoadedRecipe]:
    """Return a recipe of steps on `base` and on models given as tensors; the last step is written."""

    def make(steps: dict[str, Any], **models: Tensors) -> surgery.LoadedRecipe:
        for name, tensors in models.items():
            (tmp_path / name).mkdir(exist_ok=True)
            save_file(tensors, tmp_path / name / "model.safetensors")
        document = {
            "surgery": 1,
            "models": {name: f"./{name}" for name in ("base", *models)},
            "steps": steps,
            "output": {"model": next(reversed(steps)), "to": "./out"},
        }
        return surgery.loads(yaml.safe_dump(document, sort_keys=False), folder=tmp_path)

    return make


@pytest.fixture
def run(tmp_path: Path, recipe: Callable[..., surgery.LoadedRecipe]) -> Callable[..., Tensors]:
    """Run such a recipe and return the tensors of its output."""

    def go(steps: dict[str, Any], options: RunOptions | None = None, **models: Tensors) -> Tensors:
        options = options or RunOptions(device="cpu", threads=2, force=True)
        recipe(steps, **models).run(options)
        return load_file(tmp_path / "out" / "model.safetensors")

    return go
