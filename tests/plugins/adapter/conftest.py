"""Adapters made of plain factors, and steps on them run from the recipe's text to the published folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import surgery

PREFIX = "base_model.model."
Factors = tuple[Any, Any]
"""A [r, in] and B [out, r]."""


class Shop:
    """Writes adapters into a folder and runs steps on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def adapter(self, name: str, modules: Mapping[str, Factors], **config: Any) -> None:
        """Write an adapter of rank r and alpha r, unless its config says otherwise."""
        (self.folder / name).mkdir()
        tensors, rank = {}, 1
        for module, (A, B) in modules.items():
            A, B = torch.as_tensor(A), torch.as_tensor(B)
            rank = len(A)
            tensors |= {f"{PREFIX}{module}.lora_A.weight": A, f"{PREFIX}{module}.lora_B.weight": B}
        said = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q"], **config}
        save_file(tensors, self.folder / name / "adapter_model.safetensors")
        (self.folder / name / "adapter_config.json").write_text(json.dumps(said))

    def plan(self, step: dict[str, Any]) -> Any:
        """Plan a step on the adapters that it names."""
        given = step.get("models", [step.get("model")])
        models = {name: f"./{name}" for name in given}
        recipe = {
            "surgery": 1,
            "models": models,
            "steps": {"new": step},
            "output": {"model": "new", "to": "./out"},
        }
        return surgery.loads(json.dumps(recipe), folder=self.folder).resolve(force=True)

    def run(self, step: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Run a step and return the tensors of its adapter, without PEFT's prefix."""
        self.plan(step).run(surgery.RunOptions(device="cpu", force=True))
        made = load_file(self.folder / "out" / "adapter_model.safetensors")
        return {name.removeprefix(PREFIX): tensor for name, tensor in made.items()}

    @property
    def config(self) -> dict[str, Any]:
        """Return the config that was written last."""
        said: dict[str, Any] = json.loads((self.folder / "out" / "adapter_config.json").read_text())
        return said

    def product(self, made: Mapping[str, torch.Tensor], module: str = "q") -> torch.Tensor:
        """Return B·A in float64, after checking that the config's scale for the module is 1."""
        A, B = made[f"{module}.lora_A.weight"], made[f"{module}.lora_B.weight"]
        ranks, alphas = self.config["rank_pattern"], self.config["alpha_pattern"]
        assert ranks == alphas
        assert self.config["r"] == self.config["lora_alpha"]
        assert ranks.get(module, self.config["r"]) == len(A)
        return B.double().flatten(1) @ A.double().flatten(1)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def filled(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
