"""One vocabulary for all models."""

from __future__ import annotations

import pytest

LINEAR = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: x/a}, {model: x/b}]\n"


def test_every_model_is_given_the_vocabulary_before_it_is_merged(translate):
    data = translate(LINEAR + "tokenizer_source: union").data
    assert data["steps"]["a-tokens"] == {
        "op": "stitch.tokenizer",
        "models": ["a", "b"],
        "of": "a",
        "source": "union",
    }
    assert data["steps"]["merged"]["models"] == {"a-tokens": 1, "b-tokens": 1}
    assert "tokenizer" not in data["steps"]["merged"]
    assert data["output"] == {"model": "merged"}


@pytest.mark.parametrize(
    ("source", "meant"), [("base", "b"), ("x/a", "a"), ("x/other", "other"), ("{model: x/b}", "b")]
)
def test_the_vocabulary_may_be_a_models(translate, source, meant):
    steps = translate(f"{LINEAR}base_model: x/b\ntokenizer_source: {source}").data["steps"]
    assert steps["a-tokens"]["source"] == meant
    assert steps["a-tokens"]["models"] == ["b", "a", *(["other"] if meant == "other" else [])]


def test_tokens_have_rules_of_their_own(translate):
    text = """
tokenizer:
  pad_to_multiple_of: 16
  tokens:
    "<a>": {source: x/b, force: true}
    "<b>": {source: {kind: zero}}
    "<c>": {source: {kind: model_token, model: x/a, token_id: 3}}
"""
    step = translate(LINEAR + text).data["steps"]["b-tokens"]
    assert (step["source"], step["pad_to_multiple_of"]) == ("union", 16)
    assert step["tokens"] == {
        "<a>": {"source": "b", "force": True},
        "<b>": {"source": {"kind": "zero"}},
        "<c>": {"source": {"kind": "model_token", "model": "a", "token_id": 3}},
    }


def test_slices_are_cut_from_models_that_have_the_vocabulary(translate):
    text = "merge_method: passthrough\nslices: [{sources: [{model: x/a, layer_range: [0, 2]}]}]\n"
    steps = translate(text + "tokenizer_source: base").data["steps"]
    assert steps["merged"]["layers"] == ["a-tokens[0:2]"]
    assert steps["merged"]["models"] == ["a-tokens"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "tokenizer_source: base\ntokenizer: {}",
            "m.yaml:5:1: tokenizer: both `tokenizer` and `tokenizer_source`; keep one",
        ),
        (
            "tokenizer: {tokens: {x: {force: true}}}",
            "m.yaml:4:25: tokenizer.tokens.x: a token without `source`; write where its row comes from",
        ),
        (
            "tokenizer: {pad_to_multiple_of: 0}",
            "m.yaml:4:33: tokenizer.pad_to_multiple_of: must be a whole number from 1 up, got `0`",
        ),
    ],
)
def test_what_is_wrong_with_tokens_is_refused(wrong, text, line):
    assert wrong(LINEAR + text) == [line]
