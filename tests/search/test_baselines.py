"""Which models a search has to beat: those that the output is made of."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

import surgery
from surgery.search.baselines import parents

STEPS = """\
surgery: 1
models: {a: ./a, b: ./b, f: ./f, g: ./g}
steps:
  half: {op: merge.passthrough, model: g, scale: 0.5}
  m: {op: merge.fisher, models: {a: {fisher: f}, b: {fisher: FISHER}}}
output: {model: m}
"""


def made_of(folder, fisher):
    for name in "abfg":
        (folder / name).mkdir(exist_ok=True)
        save_file({"w": torch.ones(2)}, folder / name / "model.safetensors")
    recipe = surgery.loads(STEPS.replace("FISHER", fisher), folder=folder)
    return parents(recipe.resolve(write=False).plan)


def test_statistics_beside_models_are_none_of_them(tmp_path):
    assert made_of(tmp_path, "half") == ["a", "b"]


def test_a_model_that_also_stands_beside_another_is_one(tmp_path):
    assert made_of(tmp_path, "a") == ["a", "b"]
