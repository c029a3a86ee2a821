"""Recipes with holes on two models of two small tensors, and an evaluator that wants all numbers to be 0.3."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from surgery import RunOptions
from surgery.search.result import Result
from surgery.search.run import search
from surgery.search.task import Task, load_task

TOYS = Path(__file__).with_name("toys.py")
OPTIONS = RunOptions(device="cpu", threads=2)

RECIPE = """\
surgery: 1
models:
  zero: ./zero
  one: ./one
steps:
  mix:
    op: merge.linear
    normalize: false
    models:
      zero: {weight: 1}
      one: {weight: HOLE}
search:
  sampler: SAMPLER
  evaluator: {name: toy.target}
  trials: 6
  to: ./found
output: {model: mix, to: ./out}
"""


def recipe_text(hole: str = "${search: [0, 1]}", sampler: str = "evolve.random", **changes: str) -> str:
    text = RECIPE.replace("HOLE", hole).replace("SAMPLER", sampler)
    for old, new in changes.items():
        assert f"{old}: " in text, old
        lines = text.splitlines()
        at = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{old}: "))
        lines[at] = f"{lines[at].partition(old)[0]}{old}: {new}"
        text = "\n".join(lines) + "\n"
    return text


@dataclass
class Lab:
    """A folder with models and a recipe."""

    folder: Path

    def write(self, text: str) -> Path:
        file = self.folder / "r.yaml"
        file.write_text(text)
        return file

    def task(self, text: str, **settings: Any) -> Task:
        return load_task(self.write(text), [TOYS], **settings)

    def search(self, text: str, options: RunOptions = OPTIONS, **settings: Any) -> Result:
        return search(self.task(text), options, **settings)

    @property
    def opened(self) -> list[Any]:
        """What the evaluator opened: (subject, resident), the last search's."""
        return sys.modules["surgery_plugin_toys"].TargetEvaluator_opened


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    for name, value in (("zero", 0.0), ("one", 1.0)):
        (tmp_path / name).mkdir()
        tensors = {f"layers.{i}.w": torch.full((4, 4), value) for i in range(2)}
        save_file(tensors, tmp_path / name / "model.safetensors")
    return Lab(tmp_path)


@pytest.fixture
def control(lab: Lab) -> Callable[..., dict[str, str]]:
    """Say when the evaluator stops, and return the change of the recipe that makes it look there."""

    def stop(at: int, what: str = "interrupt") -> dict[str, str]:
        (lab.folder / "control").write_text(f"{at} {what}")
        return {"evaluator": f"{{name: toy.target, control: {lab.folder / 'control'}}}"}

    return stop
