"""stitch.layers: names, config, and what does not fit together."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError
from surgery.ops import Take
from surgery.tensors import TensorSpec
from surgery.testing import run_layout, tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_stitch.layers import layers

DECODER, GPT2, BERT, *_, GENERIC = ARCHITECTURES
EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
Q = "model.layers.{}.self_attn.q_proj.weight"


def llama(name, changes=None, **settings):
    config = tiny_config(**settings) | (changes or {})
    return view(name, tiny_specs(**settings), config, DECODER)


def stitch(entries, *models, **settings):
    return run_layout(layers, {"layers": entries, **settings}, models)


def sources(layout):
    """Which layer of which model each layer of the result is."""
    count = layout.config["num_hidden_layers"]
    return [(layout.tensors[Q.format(i)].model, layout.tensors[Q.format(i)].name) for i in range(count)]


def test_all_layers_in_order_are_the_model():
    a = llama("a", layers=3)
    layout = stitch(["a[:]"], a)
    assert layout.tensors == {name: Take("a", name) for name in a.tensors}
    assert layout.config == a.config


def test_layers_are_renumbered_and_may_repeat():
    layout = stitch(["a[0:2]", {"take": "a[1:3]"}], llama("a", layers=3))
    assert sources(layout) == [("a", Q.format(i)) for i in (0, 1, 1, 2)]
    assert layout.config["num_hidden_layers"] == 4
    assert len(layout.tensors) == 3 + 4 * 9


def test_two_models_give_their_layers_and_ends():
    a, b = llama("a", layers=3), llama("b", layers=5)
    layout = stitch(["a[0:3]", "b[1:4]", "a[2]"], a, b)
    assert sources(layout) == [("a", Q.format(i)) for i in range(3)] + [
        ("b", Q.format(1)),
        ("b", Q.format(2)),
        ("b", Q.format(3)),
        ("a", Q.format(2)),
    ]
    assert layout.tensors[EMBED].model == "a"
    assert {layout.tensors[name].model for name in (NORM, HEAD)} == {"a"}
    assert layout.config == {**a.config, "num_hidden_layers": 7}


def test_by_default_the_ends_come_from_the_first_and_the_last_slice():
    layout = stitch(["b[0]", "a[0]"], llama("a"), llama("b", {"bos_token_id": 7}))
    assert [layout.tensors[name].model for name in (EMBED, NORM, HEAD)] == ["b", "a", "a"]
    assert layout.config["bos_token_id"] == 7


def test_embed_and_head_may_be_named():
    layout = stitch(["a[0]"], llama("a"), llama("b"), embed="b", head="b")
    assert [layout.tensors[name].model for name in (EMBED, NORM, HEAD)] == ["b", "b", "b"]
    assert sources(layout) == [("a", Q.format(0))]


def test_gpt2_layers_are_renamed_in_their_own_scheme():
    names = ["wte.weight", "wpe.weight", "ln_f.weight"]
    names += [f"h.{i}.{part}" for i in range(12) for part in ("attn.c_attn.weight", "ln_1.weight")]
    specs = {name: TensorSpec(name, (4, 4), "F32") for name in names}
    model = view("g", specs, {"model_type": "gpt2", "n_layer": 12, "n_embd": 4}, GPT2)
    layout = stitch(["g[10:12]", "g[0]"], model)
    assert layout.tensors["h.0.attn.c_attn.weight"] == Take("g", "h.10.attn.c_attn.weight")
    assert layout.tensors["h.2.ln_1.weight"] == Take("g", "h.0.ln_1.weight")
    assert layout.config["n_layer"] == 3
    assert len(layout.tensors) == 3 + 3 * 2


def test_without_a_config_names_and_shapes_suffice():
    specs = {name: TensorSpec(name, (2,), "F32") for name in ("blocks.0.w", "blocks.1.w", "x")}
    layout = stitch(["a[1]"], view("a", specs, {}, GENERIC))
    assert layout.tensors == {"x": Take("a", "x"), "blocks.0.w": Take("a", "blocks.1.w")}
    assert layout.config == {}


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        (["a[0:3]"], "`a[0:3]`: reaches past the last layer, `a` has 2 layers (0 to 1); write others"),
        (["a[2]"], "`a[2]`: reaches past the last layer, `a` has 2 layers (0 to 1); write others"),
        (["a[1:1]"], "`a[1:1]`: names no layer, `a` has 2 layers (0 to 1); write others"),
        (["aa[0]"], "`aa` is none of the step's models; did you mean `a`?"),
    ],
)
def test_layers_that_are_not_there_are_refused(entries, text):
    with pytest.raises(PlanError) as error:
        stitch(entries, llama("a"))
    assert str(error.value) == text


@pytest.mark.parametrize("entries", [[], ["a"], ["a[0:3"], [{"take": "a[x]"}], [{"take": "a[0]", "tak": 1}]])
def test_what_is_no_list_of_slices_is_refused(entries):
    with pytest.raises(ValueError, match="layers"):
        stitch(entries, llama("a"))


def test_settings_that_differ_are_named_with_both_values_all_at_once():
    a, b = llama("a"), llama("b", {"rms_norm_eps": 1e-6, "rope_theta": 500000.0, "hidden_act": "gelu"})
    with pytest.raises(PlanError) as error:
        stitch(["a[0]", "b[1]"], a, b)
    advice = "stitch models whose layers have the same settings"
    assert str(error.value).splitlines() == [
        f"`a` and `b` differ at rms_norm_eps: 1e-05 and 1e-06; {advice}",
        f"`a` and `b` differ at hidden_act: 'silu' and 'gelu'; {advice}",
        f"`a` and `b` differ at rope_theta: 10000.0 and 500000.0; {advice}",
    ]


def test_widths_that_differ_are_refused():
    with pytest.raises(PlanError) as error:
        stitch(["a[0]", "b[1]"], llama("a"), llama("b", hidden=20))
    assert str(error.value).startswith("`a` and `b` differ at hidden_size: 16 and 20; ")


def test_shapes_that_differ_are_refused_where_no_config_speaks_of_them():
    shapes = {"a": (4, 2), "b": (4, 3)}
    models = [
        view(name, {"layers.0.w": TensorSpec("layers.0.w", shape, "F32")}, {}, GENERIC)
        for name, shape in shapes.items()
    ]
    with pytest.raises(PlanError) as error:
        stitch(["a[0]", "b[0]"], *models)
    assert str(error.value) == (
        "`a` and `b` differ at layers.0.w: (4, 2) and (4, 3); stitch models of the same widths"
    )


def test_models_that_name_their_tensors_differently_are_refused():
    specs = {"layers.0.w": TensorSpec("layers.0.w", (2,), "F32")}
    other = {"model.layers.0.w": TensorSpec("model.layers.0.w", (2,), "F32")}
    with pytest.raises(PlanError) as error:
        stitch(["a[0]", "b[0]"], view("a", specs, {}, GENERIC), view("b", other, {}, GENERIC))
    assert str(error.value) == (
        "`a` and `b` name their layers' tensors differently: layers.0.w and model.layers.0.w; "
        "stitch models of one architecture"
    )


def test_spellings_of_two_releases_of_transformers_agree():
    older = llama("a", {"rope_scaling": {"type": "linear", "factor": 2.0}})
    newer = llama("b", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}})
    stitch(["a[0]", "b[1]"], older, newer)


def test_models_of_several_stacks_are_refused():
    specs = {name: TensorSpec(name, (2, 2), "F32") for name in ("encoder.layers.0.w", "decoder.layers.0.w")}
    with pytest.raises(PlanError) as error:
        stitch(["a[0]"], view("a", specs, {}, GENERIC))
    assert str(error.value) == (
        "`a` has layers in decoder.layers, encoder.layers; "
        "say which with `stack`, a word of its path, where the op has it"
    )


def test_backbones_with_named_stages_are_refused():
    with pytest.raises(PlanError) as error:
        stitch(["a[0]"], llama("a", {"stage_names": ["stem", "stage1"]}))
    assert str(error.value) == (
        "config.json of `a` names its layers as stages; remove stage_names, out_features and out_indices, which a "
        "model without a head on them does not need"
    )


def test_encoder_decoders_are_refused():
    with pytest.raises(PlanError) as error:
        stitch(["a[0]"], llama("a", {"is_encoder_decoder": True}))
    assert (
        str(error.value)
        == "`a` is an encoder with a decoder; say which with `stack`, a word of its path, where the op has it"
    )
