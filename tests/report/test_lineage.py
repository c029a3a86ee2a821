from __future__ import annotations

import numpy as np
import pytest

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.host import Host
from surgery.plan.nodes import Rows, Source
from surgery.plan.resolve import resolve
from surgery.recipe.load import parse_recipe
from surgery.report.lineage import Ancestor, descended_from, lineage, made_by
from surgery.tensors import TensorSpec
from surgery.testing.tiny import save_tiny


@pytest.fixture
def source() -> Source:
    checkpoint = MemoryCheckpoint({"w": np.zeros((4, 3), np.float32)}, {})
    return Source(checkpoint, checkpoint.tensors["w"])


@pytest.fixture
def llamas(tmp_path):
    for seed, name in enumerate(("base", "code")):
        save_tiny(tmp_path / name, seed=seed)
    return tmp_path


def nodes(folder, steps: str) -> dict:
    models = "{base: ./base, code: ./code}"
    text = f"surgery: 1\nmodels: {models}\nsteps: {steps}\noutput: {{model: end, to: ./x}}\n"
    plan = resolve(parse_recipe(text, folder=folder), Host())
    (output,) = plan.outputs
    names = {id(checkpoint): name for name, checkpoint in plan.checkpoints.items()}
    found = {tensor.spec.name: lineage(tensor.node, names) for tensor in output.tensors}
    plan.close()
    return found


def test_a_source_is_copied_and_descends_from_itself(source):
    assert made_by(source) == ("", "copied")
    assert descended_from(source) == Ancestor(source.checkpoint, "w", 0, 12)
    assert lineage(source, {id(source.checkpoint): "base"}) == {
        "op": "copied",
        "from": {"model": "base", "tensor": "w"},
    }


def test_rows_descend_from_a_stretch(source):
    rows = Rows(Rows(source, 3, TensorSpec("w", (3, 3), "F32")), 3, TensorSpec("w", (1, 3), "F32"))
    assert descended_from(rows) == Ancestor(source.checkpoint, "w", 6, 3)
    assert lineage(rows, {id(source.checkpoint): "base"})["from"]["start"] == 6


def test_a_tensor_descends_from_the_base(llamas):
    found = nodes(llamas, "{end: {op: merge.task_arithmetic, base: code, models: {base: 0.5}}}")
    assert found["model.embed_tokens.weight"] == {
        "step": "end",
        "op": "merge.task_arithmetic",
        "from": {"model": "code", "tensor": "model.embed_tokens.weight"},
    }


def test_without_a_base_it_descends_from_the_first_model_through_all_steps(llamas):
    found = nodes(
        llamas,
        "{half: {op: merge.linear, models: {code: 0.5, base: 0.5}, where: mlp}, "
        "end: {op: stitch.layers, models: [half], layers: ['half[1]']}}",
    )
    assert found["model.layers.0.mlp.up_proj.weight"] == {
        "step": "half",
        "op": "merge.linear",
        "from": {"model": "base", "tensor": "model.layers.1.mlp.up_proj.weight"},
    }
    assert found["model.embed_tokens.weight"]["op"] == "copied"
