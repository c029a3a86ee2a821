"""stitch.repeat: which layers occur how often."""

from __future__ import annotations

import pytest

from surgery.testing import run_layout, tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_stitch.repeat import repeat

NORM = "model.layers.{}.input_layernorm.weight"


def llama(name="a", layers=6):
    return view(name, tiny_specs(layers=layers), tiny_config(layers=layers), ARCHITECTURES[0])


def picks(layout):
    """Which layer of which model each layer of the result is: `a3`."""
    takes = [layout.tensors[NORM.format(i)] for i in range(layout.config["num_hidden_layers"])]
    return [take.model + take.name.split(".")[2] for take in takes]


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
