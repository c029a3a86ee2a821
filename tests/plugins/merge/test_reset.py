"""merge.reset: how many tensors go back to the base, which, and that all are taken whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import PlanError
from surgery.ops import Take
from surgery.tensors import TensorInfo, TensorSpec
from surgery.testing import run_layout, tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_merge.reset import reset

HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


def llama(name, layers=4, tied=False):
    settings = {"layers": layers, "tied": tied}
    return view(name, tiny_specs(**settings), tiny_config(**settings), ARCHITECTURES[0])


BASE, TUNED = llama("base"), llama("tuned")


def given_back(models=(BASE, TUNED), **params):
    layout = run_layout(reset, params, models)
    assert all(take.name == name and take.rows is None for name, take in layout.tensors.items())
    return {name for name, take in layout.tensors.items() if take.model == "base"}


def category(name):
    info = TUNED.tensors[name]
    return info.role.kind.partition(".")[0], info.role.layer


@pytest.mark.parametrize("granularity", ["tensor", "category", "layer"])
def test_none_is_the_model_and_all_is_the_base(granularity):
    assert given_back(fraction=0, granularity=granularity) == set()
    assert given_back(fraction=1, granularity=granularity) == set(TUNED.tensors)


def test_layers_of_several_stacks_go_back_apart():
    specs = {
        f"{side}.layers.{i}.w": TensorSpec(f"{side}.layers.{i}.w", (2, 2), "F32")
        for side in "ab"
        for i in (0, 1)
    }
    models = [view(name, specs, {}, ARCHITECTURES[0]) for name in ("base", "tuned")]
    assert len(given_back(models, fraction=0.25, granularity="layer")) == 1


def test_half_of_each_category_of_each_layer_goes_back():
    """Of four attention matrices two, of three of the mlp one or two, of two norms one."""
    counts = Counter(category(name) for name in given_back())
    for layer in range(4):
        assert counts["attention", layer] == 2
        assert counts["mlp", layer] in (1, 2)
        assert counts["norm", layer] == 1


def test_what_does_not_divide_is_right_on_average():
    counts = Counter()
    for seed in range(100):
        counts.update(category(name)[0] for name in given_back(seed=seed) if category(name)[1] is not None)
    assert counts["attention"] == 800
    assert counts["norm"] == 400
    assert counts["mlp"] / 400 == pytest.approx(1.5, abs=0.1)


def test_every_tensor_goes_back_about_as_often():
    often = Counter(name for seed in range(400) for name in given_back(seed=seed))
    assert len(often) == len(TUNED.tensors)
    assert all(0.4 < times / 400 < 0.6 for times in often.values())


def test_a_third_of_the_tensors_of_the_model():
    """39 tensors in all: 4 layers of 9, embeddings, final norm and head."""
    assert len(given_back(fraction=1 / 3, granularity="tensor")) == 13


def test_layers_go_back_whole():
    back = given_back(granularity="layer", seed=1)
    layers = Counter(TUNED.tensors[name].role.layer for name in back)
    assert all(count == 9 for layer, count in layers.items() if layer is not None)
    units = sum(layer is not None for layer in layers) + layers[None]
    assert units in (3, 4)  # of 4 layers and 3 tensors outside


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 99), st.sampled_from(["tensor", "category", "layer"]))
@settings(max_examples=40, deadline=None)
def test_a_larger_fraction_gives_back_the_same_and_more(a, b, seed, granularity):
    less, more = (given_back(fraction=f, seed=seed, granularity=granularity) for f in (min(a, b), max(a, b)))
    assert less <= more


def test_the_choice_is_part_of_what_a_recipe_means():
    """These names must never change: a recipe with this seed has the same bytes on every machine and version."""
    back = given_back(models=(llama("base", 1), llama("tuned", 1)), seed=7)
    assert sorted(name.removeprefix("model.layers.0.") for name in back) == CHOSEN
    assert back == given_back(models=(llama("base", 1), llama("tuned", 1)), seed=7)
    assert back != given_back(models=(llama("base", 1), llama("tuned", 1)), seed=8)


CHOSEN = [
    "input_layernorm.weight",
    "lm_head.weight",
    "mlp.down_proj.weight",
    "mlp.gate_proj.weight",
    "model.norm.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
]


def test_the_model_gives_config_and_tokenizer():
    layout = run_layout(reset, {}, [BASE, replace(TUNED, config={"x": 1})])
    assert layout.donor == "tuned"
    assert layout.config == {"x": 1}
    assert list(layout.tensors) == list(TUNED.tensors)


def test_a_head_that_one_of_them_ties_is_no_difference():
    tied = replace(llama("base"), tensors=llama("base", tied=True).tensors, tied={HEAD: EMBED})
    layout = reset.implementation({"base": tied, "tuned": TUNED}, reset.params(fraction=1))
    assert layout.tensors[HEAD] == Take("base", HEAD)
    tied = replace(tied, name="tuned")
    assert HEAD not in reset.implementation({"base": BASE, "tuned": tied}, reset.params()).tensors


def test_a_model_that_is_its_own_base_stays():
    assert {take.model for take in run_layout(reset, {}, [TUNED]).tensors.values()} == {"tuned"}


def test_whatever_differs_is_reported_at_once():
    name, other = "model.norm.weight", HEAD
    wide = TensorInfo(TensorSpec(name, (17,), "F32"), BASE.tensors[name].role)
    tensors = {key: info for key, info in TUNED.tensors.items() if key != other} | {name: wide}
    with pytest.raises(PlanError) as error:
        run_layout(reset, {}, [BASE, replace(TUNED, tensors=tensors)])
    assert str(error.value) == (
        f"`base` and `tuned` differ at {name}: (16,) and (17,); "
        "give a model and the base that it was trained from\n"
        f"tensor {other} is missing in `tuned`, `base` has it; give a model and the base that it was trained from"
    )


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_a_share_lies_between_none_and_all(fraction):
    with pytest.raises(ValueError, match=r"(greater|less) than or equal to"):
        run_layout(reset, {"fraction": fraction}, [BASE, TUNED])
