"""stitch.drop: which layers are left, and what is refused."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError
from surgery.testing import run_layout, tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_stitch.drop import drop

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
