"""merge.fallback: who gives which tensor, and what has no place in the first model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from surgery.errors import PlanError
from surgery.testing import run_layout, tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_merge.fallback import fallback

HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


def llama(name, without=(), **settings):
    specs = {
        tensor: spec
        for tensor, spec in tiny_specs(**settings).items()
        if not any(part in tensor for part in without)
    }
    return view(name, specs, tiny_config(**settings), ARCHITECTURES[0])


def givers(*models):
    layout = run_layout(fallback, {}, models)
    assert all(take.name == name and take.rows is None for name, take in layout.tensors.items())
    return {name: take.model for name, take in layout.tensors.items()}


def refusal(*models):
    with pytest.raises(PlanError) as error:
        run_layout(fallback, {}, models)
    return str(error.value)


def test_each_tensor_comes_from_the_first_model_that_has_it():
    a = llama("a", without=["lm_head", "mlp", "layers.1."])
    b = llama("b", without=["mlp.up", "lm_head"])
    by = givers(a, b, llama("c"))
    assert by["model.embed_tokens.weight"] == "a"
    assert by["model.layers.0.self_attn.q_proj.weight"] == "a"
    assert by["model.layers.0.mlp.gate_proj.weight"] == "b"
    assert by["model.layers.1.self_attn.q_proj.weight"] == "b"
    assert by["model.layers.0.mlp.up_proj.weight"] == "c"
    assert by[HEAD] == "c"
    assert by.keys() == tiny_specs().keys()


def test_order_decides():
    assert Counter(givers(llama("a"), llama("b")).values()) == {"a": 21}
    assert Counter(givers(llama("b"), llama("a")).values()) == {"b": 21}


def test_the_first_model_gives_config_and_tokenizer():
    a = llama("a", without=["lm_head"])
    layout = run_layout(fallback, {}, [replace(a, config={**a.config, "x": 1}), llama("b")])
    assert layout.donor == "a"
    assert layout.config["x"] == 1


def test_a_tied_head_stays_tied():
    assert HEAD not in givers(llama("a", tied=True), llama("b"))
    nested = replace(llama("a", tied=True), config={"text_config": tiny_config(tied=True)})
    assert HEAD not in givers(nested, llama("b"))
    shared = replace(llama("a", without=["mlp.up"]), tied={"model.layers.0.mlp.up_proj.weight": EMBED})
    missing = llama("b").tensors.keys() - givers(shared, llama("b")).keys()
    assert missing == {"model.layers.0.mlp.up_proj.weight"}


def test_layers_that_were_not_stored_may_come_from_another_model():
    by = givers(llama("a", without=["layers.1."]), llama("b"))
    assert Counter(by.values()) == {"a": 12, "b": 9}


def test_layers_behind_the_last_are_refused():
    assert refusal(llama("a", layers=2), llama("b", layers=3)) == (
        "`b` has 3 layers and `a` 2; name `b` first, or cut it with stitch.layers"
    )


def test_other_shapes_are_refused_wherever_they_are():
    assert refusal(llama("a", vocab=32), llama("b", vocab=40), llama("c", vocab=32)) == (
        "`a` and `b` differ at model.embed_tokens.weight: (32, 16) and (40, 16); give models of one size\n"
        "`a` and `b` differ at lm_head.weight: (32, 16) and (40, 16); give models of one size"
    )
