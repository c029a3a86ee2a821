from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.architecture import Architecture
from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.plan.virtual import VirtualModel, from_checkpoint
from surgery.report.change import changes, module_of

UP = "model.layers.0.mlp.up.weight"


def model(tensors: dict[str, np.ndarray], architectures: tuple[Architecture, ...] = ()) -> VirtualModel:
    return from_checkpoint("m", MemoryCheckpoint(tensors, {}), architectures)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def noted(name: str, tensor: str = "w", **more) -> dict:
    start = {"start": more.pop("start")} if "start" in more else {}
    return {"name": name, "from": {"model": "base", "tensor": tensor, **start}, **more}


def test_a_change_is_relative_to_the_source():
    source = MemoryCheckpoint({"w": f32(3, 4)}, {})
    (found,) = changes(model({UP: f32(3, 2)}), [noted(UP)], {"base": source})
    # ‖(0, 2)‖ = 2 and ‖(3, 4)‖ = 5
    assert (found.name, found.layer, found.module, found.relative) == (UP, 0, "mlp.up", 0.4)
    assert not found.encoded


def test_rows_are_compared_with_their_stretch():
    source = MemoryCheckpoint({"w": f32(9, 9, 3, 4)}, {})
    (found,) = changes(model({UP: f32(3, 4)}), [noted(UP, start=2)], {"base": source})
    assert found.relative == 0


def test_codes_are_compared_as_what_they_encode():
    source = MemoryCheckpoint({"w": f32(3, 4)}, {})
    (found,) = changes(model({UP: f32(3, 4)}), [noted(f"{UP}_packed", of=UP)], {"base": source})
    assert (found.name, found.relative, found.encoded) == (UP, 0, True)


@pytest.mark.parametrize(
    "tensors",
    [
        [],
        [{"name": UP}],
        [{"name": UP, "from": {"model": "gone", "tensor": "w"}}],
        [noted(UP, "other")],
        [noted(UP, start=1)],
        [noted(UP, start=-1)],
    ],
)
def test_what_has_no_source_is_left_out(tensors):
    source = MemoryCheckpoint({"w": f32(3, 4)}, {})
    assert changes(model({UP: f32(3, 4)}), tensors, {"base": source}) == []


def test_whole_numbers_are_left_out():
    source = MemoryCheckpoint({"w": np.arange(2)}, {})
    assert changes(model({UP: np.arange(2)}), [noted(UP)], {"base": source}) == []


def test_a_change_from_zero_is_infinite():
    source = MemoryCheckpoint({"w": f32(0, 0)}, {})
    (found,) = changes(model({UP: f32(0, 1)}), [noted(UP)], {"base": source})
    assert found.relative == math.inf


@given(st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=50))
def test_it_is_what_numpy_says(values):
    made, source = np.array(values, np.float32), np.linspace(1, 2, len(values), dtype=np.float32)
    given = MemoryCheckpoint({"w": source}, {})
    (found,) = changes(model({UP: made}), [noted(UP)], {"base": given})
    gap = np.linalg.norm(made.astype(np.float64) - source) / np.linalg.norm(source.astype(np.float64))
    assert found.relative == pytest.approx(gap, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("model.layers.3.mlp.experts.17.w1.weight", "mlp.experts.*.w1"),
        ("model.layers.3.self_attn.q_proj.bias", "self_attn.q_proj.bias"),
        ("h.0.attn.c_attn.weight", "attn.c_attn"),
        ("lm_head.weight", "lm_head"),
    ],
)
def test_a_module_has_one_name_in_all_layers(name, module):
    info = model({name: f32(1), "model.layers.9.x.weight": f32(1)}).tensors[name]
    assert module_of(info) == module


def test_a_module_of_one_of_several_stacks_is_named_with_its_stack():
    info = model({"encoder.layers.9.a.0.x.weight": f32(1)}).tensors["encoder.layers.9.a.0.x.weight"]
    assert module_of(info, several=True) == "encoder.layers.*.a.*.x"
