from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import surgery
from surgery import RunOptions
from surgery.host import Host
from surgery.recipe.load import parse_recipe

TOYS = Path(__file__).parent / "toy_ops.py"

CPU = RunOptions(device="cpu", threads=2)


@cache
def host() -> Host:
    return Host([TOYS])


@dataclass
class Workshop:
    """Saves small models, runs recipes on them, loads what comes out."""

    folder: Path
    models: dict[str, str] = field(default_factory=dict)

    def save(self, name: str, tensors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Save a model and name it in all later recipes; lists become float32 tensors."""
        made = {key: t if isinstance(t, torch.Tensor) else torch.tensor(t) for key, t in tensors.items()}
        (self.folder / name).mkdir(exist_ok=True)
        save_file(made, self.folder / name / "model.safetensors")
        self.models[name] = f"./{name}"
        return made

    def document(self, steps: Mapping[str, Any], *, to: str = "out", **top: Any) -> dict[str, Any]:
        """Return a recipe whose last step is written, unless `output` or `outputs` says otherwise."""
        dtype = {"dtype": top.pop("dtype")} if "dtype" in top else {}
        if not top.keys() & {"output", "outputs"}:
            top["output"] = {"model": next(reversed(steps)), "to": to, **dtype}
        return {"surgery": 1, "models": self.models, "steps": dict(steps), **top}

    def recipe(self, steps: Mapping[str, Any], **top: Any) -> surgery.LoadedRecipe:
        text = yaml.safe_dump(self.document(steps, **top), sort_keys=False)
        # what `surgery.loads(text, plugins=[TOYS])` does, but for loading the ops only once
        recipe = parse_recipe(text, folder=self.folder, foreign=host().read_foreign)
        return surgery.LoadedRecipe(recipe, host())

    def run(self, steps: Mapping[str, Any], options: RunOptions = CPU, **top: Any) -> dict[str, torch.Tensor]:
        """Run a recipe and return the tensors of its only output."""
        self.report = self.recipe(steps, **top).run(options)
        return self.read(top.get("to", "out"))

    def read(self, to: str = "out") -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for file in sorted((self.folder / to).glob("*.safetensors")):
            tensors |= load_file(file)
        return tensors

    def data(self, to: str = "out") -> dict[str, bytes]:
        """Return the bytes of an output's weight files by name."""
        return {file.name: file.read_bytes() for file in sorted((self.folder / to).glob("*.safetensors"))}

    def write(self, steps: Mapping[str, Any], **top: Any) -> Path:
        """Write a recipe to a file, for other processes."""
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(self.document(steps, **top), sort_keys=False))
        return path

    def start(self, code: str, *args: object, **settings: Any) -> subprocess.Popen[str]:
        """Start Python on some code in a process of its own."""
        command = [sys.executable, "-c", code, *map(str, args)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, stdout=pipe, stderr=pipe, text=True, **settings)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # for the arithmetic that results are compared with; a run sets it by itself
    yield Workshop(tmp_path)
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toys() -> Path:
    return TOYS


@pytest.fixture(scope="session")
def workshop() -> type[Workshop]:
    """For tests that share what is costly to make."""
    return Workshop
