"""Documents translated, and run on models of constants: what comes out of a sum of deltas is its weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.checkpoint.memory import MemoryCheckpoint, register_memory
from surgery.errors import RecipeError
from surgery.recipe.foreign import Translated
from surgery.recipe.yaml import read_documents
from surgery.testing.tiny import tiny_config, tiny_specs
from surgery_mergekit import surgery_read_recipe


@pytest.fixture
def translate(tmp_path: Path) -> Callable[[str], Translated]:
    """Translates documents whose folder holds nothing."""

    def made(text: str) -> Translated:
        documents = read_documents(text, "m.yaml")
        found = surgery_read_recipe(documents[0].data, documents, tmp_path)
        assert found is not None
        return found

    return made


@pytest.fixture
def step(translate: Callable[[str], Translated]) -> Callable[[str], dict[str, Any]]:
    """Translates a document and returns the step that makes its result."""
    return lambda text: translate(text).data["steps"]["merged"]


@pytest.fixture
def wrong(translate: Callable[[str], Translated]) -> Callable[[str], list[str]]:
    """Translates a document that is wrong and returns the lines of what is said of it."""

    def lines(text: str) -> list[str]:
        with pytest.raises(RecipeError) as error:
            translate(text)
        return str(error.value).split("\n")

    return lines


@pytest.fixture
def warned(translate: Callable[[str], Translated]) -> Callable[[str], list[str]]:
    """Translates a document and returns its warnings."""
    return lambda text: [str(finding) for finding in translate(text).warnings]


def constant(name: str, value: float, layers: int = 4, **settings: Any) -> None:
    """Register a tiny Llama, all of whose elements have one value, as `memory:NAME`."""
    specs = tiny_specs(layers=layers, **settings)
    tensors = {key: torch.full(spec.shape, value) for key, spec in specs.items()}
    register_memory(name, MemoryCheckpoint(tensors, tiny_config(layers=layers, **settings)))


@pytest.fixture
def values() -> Callable[[str], dict[str, float]]:
    """Runs a document on `memory:zero`, `one`, `two` and `ten`; returns the value of each tensor's elements."""
    for name, value in (("zero", 0.0), ("one", 1.0), ("two", 2.0), ("ten", 10.0)):
        constant(name, value)

    def run(text: str) -> dict[str, float]:
        made = surgery.state_dict(surgery.loads(text))
        return {name: round(made[name].flatten()[0].item(), 5) for name in made}

    return run
