"""The loopback Hub, models on it, and recipes that use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import surgery
from surgery.testing.tiny import save_tiny
from tests.hub.fixtures import hub
from tests.hub.server import LoopbackHub

__all__ = ["hub"]

CPU = surgery.RunOptions(device="cpu", threads=1)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny", seed=1, dtype="bfloat16")


@pytest.fixture
def parents(hub: LoopbackHub, tmp_path: Path) -> Path:
    """Put `org/base` and `org/code` on the Hub; return the folder where recipes lie."""
    for seed, name in enumerate(("base", "code")):
        hub.add(f"org/{name}", save_tiny(tmp_path / "made" / name, seed=seed, dtype="bfloat16"))
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def recipe(parents: Path) -> Callable[..., surgery.LoadedRecipe]:
    """Load a recipe that merges two models and writes to `to`."""

    def load(to: str = "./out", **changes: Any) -> surgery.LoadedRecipe:
        document: dict[str, Any] = {
            "surgery": 1,
            "models": {"base": "org/base", "code": "hub:org/code"},
            "steps": {"half": {"op": "merge.linear", "models": {"base": 0.5, "code": 0.5}}},
            "output": {"model": "half", "to": to, **changes.pop("output", {})},
        }
        if "outputs" in changes:
            del document["output"]
        return surgery.loads(yaml.safe_dump(document | changes, sort_keys=False), folder=parents)

    return load
