"""stitch.drop, stitch.repeat, stitch.interleave: which layers they pick."""

from __future__ import annotations

import subprocess
import sys

import pytest

import surgery_stitch
from surgery.errors import PlanError
from surgery.testing import run_layout, tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_stitch.drop import drop
from surgery_stitch.interleave import interleave
from surgery_stitch.repeat import repeat

NORM = "model.layers.{}.input_layernorm.weight"


def llama(name="a", layers=6):
    return view(name, tiny_specs(layers=layers), tiny_config(layers=layers), ARCHITECTURES[0])


def picks(layout):
    """Which layer of which model each layer of the result is: `a3`."""
    takes = [layout.tensors[NORM.format(i)] for i in range(layout.config["num_hidden_layers"])]
    return [take.model + take.name.split(".")[2] for take in takes]


@pytest.mark.parametrize(
    ("dropped", "left"),
    [
        ([2, 5], "a0 a1 a3 a4"),
        ("2:5", "a0 a1 a5"),
        (3, "a0 a1 a2 a4 a5"),
        (["0", "3:5", 4], "a1 a2 a5"),
        (":3", "a3 a4 a5"),
        ([], "a0 a1 a2 a3 a4 a5"),
    ],
)
def test_drop_leaves_layers_out(dropped, left):
    layout = run_layout(drop, {"layers": dropped}, [llama()])
    assert picks(layout) == left.split()
    assert len(layout.tensors) == 3 + 9 * len(left.split())


@pytest.mark.parametrize(
    ("dropped", "text"),
    [
        ([6], "`6`: reaches past the last layer, `a` has 6 layers (0 to 5); write others"),
        ("0:6", "no layer is left; keep at least one"),
    ],
)
def test_drop_refuses_what_is_not_there_and_to_drop_all(dropped, text):
    with pytest.raises(PlanError) as error:
        run_layout(drop, {"layers": dropped}, [llama()])
    assert str(error.value) == text


@pytest.mark.parametrize("dropped", [["x"], "a[0]", [-1]])
def test_drop_refuses_what_is_no_range(dropped):
    with pytest.raises(ValueError, match="is no range of layers"):
        run_layout(drop, {"layers": dropped}, [llama()])


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"layers": "2:4"}, "a0 a1 a2 a3 a2 a3 a4 a5"),
        ({"layers": "4:", "times": 3}, "a0 a1 a2 a3 a4 a5 a4 a5 a4 a5"),
        ({"layers": "1", "times": 2}, "a0 a1 a1 a2 a3 a4 a5"),
        ({"layers": "1:3", "times": 1}, "a0 a1 a2 a3 a4 a5"),
    ],
)
def test_repeat_repeats_a_stretch_in_place(settings, wanted):
    assert picks(run_layout(repeat, settings, [llama()])) == wanted.split()


def test_repeating_8_to_24_of_32_layers_is_solar():
    layout = run_layout(repeat, {"layers": "8:24"}, [llama(layers=32)])
    assert picks(layout) == [f"a{i}" for i in [*range(24), *range(8, 32)]]
    assert layout.config["num_hidden_layers"] == 48
    assert picks(layout)[24] == "a8"


@pytest.mark.parametrize(
    ("every", "wanted"), [(1, "a0 b1 c2 a3 b4 c5"), (2, "a0 a1 b2 b3 c4 c5"), (9, "a0 a1 a2 a3 a4 a5")]
)
def test_interleave_takes_turns(every, wanted):
    layout = run_layout(interleave, {"every": every}, [llama("a"), llama("b"), llama("c")])
    assert picks(layout) == wanted.split()
    assert layout.tensors["model.embed_tokens.weight"].model == "a"
    assert layout.tensors["lm_head.weight"].model == wanted[-2]


def test_interleave_refuses_models_of_different_depths():
    with pytest.raises(PlanError) as error:
        run_layout(interleave, {}, [llama("a"), llama("b", layers=4)])
    assert str(error.value) == (
        "the models have different numbers of layers: `a` 6, `b` 4; write stitch.layers instead"
    )


def test_the_hook_returns_every_op_and_imports_no_torch():
    ops = surgery_stitch.surgery_register_ops()
    assert [op.name for op in ops] == ["stitch.drop", "stitch.interleave", "stitch.layers", "stitch.repeat"]
    assert all(op.cite and op.summary.endswith(".") for op in ops)
    code = "import surgery_stitch, sys; surgery_stitch.surgery_register_ops(); print('torch' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "False\n"
