"""stitch.interleave: whose turn it is."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError
from surgery.testing import run_layout, tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_stitch.interleave import interleave

NORM = "model.layers.{}.input_layernorm.weight"


def llama(name="a", layers=6):
    return view(name, tiny_specs(layers=layers), tiny_config(layers=layers), ARCHITECTURES[0])


def picks(layout):
    """Which layer of which model each layer of the result is: `a3`."""
    takes = [layout.tensors[NORM.format(i)] for i in range(layout.config["num_hidden_layers"])]
    return [take.model + take.name.split(".")[2] for take in takes]


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
