"""config.json of stitched models: counts, lists per layer, lists of indices, rules."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError
from surgery.testing import run_layout, tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_stitch._config import layer_count
from surgery_stitch.layers import layers


def llama(name="a", changes=None, drop=(), tensors=6, **settings):
    config = tiny_config(layers=6, **settings) | (changes or {})
    config = {key: value for key, value in config.items() if key not in drop}
    return view(name, tiny_specs(layers=tensors, **settings), config, ARCHITECTURES[0])


def config_of(entries, *models):
    return run_layout(layers, {"layers": entries}, models).config


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_layers", "n_layers"])
def test_the_count_is_written_in_the_spelling_that_is_there(key):
    config = config_of(["a[0:2]"], llama(changes={key: 6}, drop={"num_hidden_layers"} - {key}))
    assert config[key] == 2
    assert set(config) & {"num_hidden_layers", "n_layer", "num_layers", "n_layers"} == {key}


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("layer_types", ["f", "s", "s", "f", "s", "s"], ["s", "f", "f", "s"]),
        ("no_rope_layers", [1, 1, 1, 0, 1, 1], [1, 1, 0, 1]),
        ("hybrid_override_pattern", "M-M*M-", "MM*-"),
        ("moe_layer_freq", [0, 1, 1, 1, 1, 1], [1, 0, 1, 1]),
    ],
)
def test_a_list_per_layer_travels_with_the_layers(key, value, wanted):
    assert config_of(["a[2]", "a[0]", "a[3]", "a[5]"], llama(changes={key: value}))[key] == wanted


def test_each_model_brings_its_own_entries():
    a = llama("a", {"layer_types": ["x"] * 6, "mlp_only_layers": [0]})
    b = llama("b", {"layer_types": ["y"] * 6, "mlp_only_layers": [1, 2]})
    config = config_of(["a[0:2]", "b[1:3]"], a, b)
    assert config["layer_types"] == ["x", "x", "y", "y"]
    assert config["mlp_only_layers"] == [0, 2, 3]


def test_an_empty_list_of_indices_stays_empty():
    assert config_of(["a[1]"], llama(changes={"mlp_only_layers": []}))["mlp_only_layers"] == []


@pytest.mark.parametrize(
    ("changes", "entries", "key", "wanted"),
    [
        ({"first_k_dense_replace": 1}, ["a[0:3]", "a[2:6]"], "first_k_dense_replace", 1),
        ({"first_k_dense_replace": 1}, ["a[1:6]"], "first_k_dense_replace", 0),
        ({"first_k_dense_replace": 2}, ["a[0:2]", "a[0:6]"], "first_k_dense_replace", 4),
        ({"max_window_layers": 6, "use_sliding_window": True}, ["a[:]", "a[:]"], "max_window_layers", 12),
        ({"max_window_layers": 3}, ["a[5]", "a[0]"], "max_window_layers", 2),
        ({"decoder_sparse_step": 1}, ["a[5]", "a[0]"], "decoder_sparse_step", 1),
        ({"sliding_window_pattern": 3}, ["a[0:3]", "a[0:6]"], "sliding_window_pattern", 3),
        ({"sliding_window_pattern": "LLG"}, ["a[3:6]"], "sliding_window_pattern", "LLG"),
        (
            {"sliding_window_pattern": 3, "layer_types": list("ssfssf")},
            ["a[2]", "a[0]"],
            "sliding_window_pattern",
            3,
        ),
        ({"num_kv_shared_layers": 0}, ["a[2]"], "num_kv_shared_layers", 0),
    ],
)
def test_a_rule_that_can_say_it_gets_the_value_that_does(changes, entries, key, wanted):
    assert config_of(entries, llama(changes=changes))[key] == wanted


@pytest.mark.parametrize(
    ("changes", "entries"),
    [
        ({"first_k_dense_replace": 1}, ["a[1:3]", "a[0]"]),
        ({"max_window_layers": 3, "use_sliding_window": True}, ["a[3:6]", "a[0:3]"]),
        ({"sliding_window_pattern": 3}, ["a[1:6]"]),
        ({"decoder_sparse_step": 2}, ["a[0]", "a[2]"]),
        ({"attn_layer_period": 4}, ["a[0]", "a[2]"]),
        ({"sliding_window_pattern": "LLG"}, ["a[1]"]),
    ],
)
def test_a_rule_that_cannot_say_it_is_refused(changes, entries):
    key, value = next(iter(changes.items()))
    with pytest.raises(PlanError) as error:
        config_of(entries, llama(changes=changes))
    assert str(error.value) == (
        f"{key} of config.json: no value keeps every layer what it was, got {value}; "
        "choose layers so that each stays in its place of the pattern, or write the pattern out per layer"
    )


def test_shared_keys_and_values_are_refused():
    with pytest.raises(PlanError) as error:
        config_of(["a[0]"], llama(changes={"num_kv_shared_layers": 2}))
    assert str(error.value) == (
        "num_kv_shared_layers of config.json: the last layers share keys and values; their order cannot change"
    )


def test_an_unknown_list_per_layer_is_refused():
    with pytest.raises(PlanError) as error:
        config_of(["a[0]"], llama(changes={"brand_new": [1, 2, 3, 4, 5, 6]}))
    assert str(error.value) == (
        "brand_new in config.json of `a`: unknown list, as long as there are layers; "
        "remove it or use a model without it"
    )


def test_lists_of_other_lengths_and_known_ones_pass():
    changes = {"brand_new": [1, 2], "eos_token_id": [1, 2, 3, 4, 5, 6]}
    config = config_of(["a[0]"], llama(changes=changes))
    assert {key: config[key] for key in changes} == changes


def test_a_model_taken_whole_keeps_what_could_not_be_rewritten():
    changes = {"brand_new": [1, 2, 3, 4, 5, 6], "num_kv_shared_layers": 2, "sliding_window_pattern": 4}
    model = llama(changes=changes)
    assert config_of(["a[0:6]"], model) == model.config


def test_all_that_cannot_be_rewritten_is_reported_at_once():
    with pytest.raises(PlanError) as error:
        config_of(["a[1]"], llama(changes={"brand_new": [0] * 6, "num_kv_shared_layers": 2}))
    assert len(error.value.findings) == 2


def test_a_list_of_the_wrong_length_is_refused():
    with pytest.raises(PlanError) as error:
        config_of(["a[1]"], llama(changes={"layer_types": ["x"] * 5}))
    assert (
        str(error.value) == "layer_types in config.json of `a`: has 5 entries for 6 layers; mend config.json"
    )


def test_a_list_that_one_model_lacks_is_refused():
    with pytest.raises(PlanError) as error:
        config_of(["a[1]", "b[0]"], llama("a"), llama("b", {"layer_types": ["x"] * 6}))
    assert str(error.value) == "layer_types in config.json of `a`: has None for 6 layers; mend config.json"


def test_a_rule_that_one_model_lacks_is_refused():
    with pytest.raises(PlanError) as error:
        config_of(["a[1]", "b[0]"], llama("a"), llama("b", {"first_k_dense_replace": 0}))
    assert (
        str(error.value)
        == "first_k_dense_replace: config.json of `a` lacks it, others have it; write it there"
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"tensors": 5}, "config.json of `a` says 6 layers, its tensors have 5; mend it"),
        ({"tensors": 7}, "config.json of `a` says 6 layers, its tensors have 7; mend it"),
        (
            {"drop": {"num_hidden_layers"}},
            "config.json of `a` has no num_hidden_layers, n_layer, num_layers, n_layers; add the number of layers",
        ),
    ],
)
def test_counts_must_agree(settings, text):
    with pytest.raises(PlanError) as error:
        layer_count(llama(**settings))
    assert str(error.value) == text


def test_prediction_blocks_behind_the_last_layer_are_renumbered():
    model = llama(changes={"num_nextn_predict_layers": 1}, tensors=7)
    layout = run_layout(layers, {"layers": ["a[0:3]"]}, [model])
    assert layout.config["num_hidden_layers"] == 3
    assert layout.config["num_nextn_predict_layers"] == 1
    moved = {name: take.name for name, take in layout.tensors.items() if name.startswith("model.layers.3.")}
    assert len(moved) == 9
    assert all(source.startswith("model.layers.6.") for source in moved.values())
