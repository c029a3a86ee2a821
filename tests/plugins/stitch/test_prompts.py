"""Prompts become token ids: the begin token leads each, nothing else is added."""

from __future__ import annotations

import json

import pytest

from surgery.errors import PlanError, ResourceError
from surgery.testing import tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_stitch._prompts import token_ids
from tests.plugins.stitch.vocabularies import tokenizer

TOKENIZER = tokenizer({"a": 0, "b": 1, "c": 2}, {"<s>": 3, "</s>": 4})


def model(vocab=8, **files):
    given = {"tokenizer.json": TOKENIZER} | {f"{name}.json": file for name, file in files.items()}
    return view("m", tiny_specs(vocab=vocab), tiny_config(vocab=vocab), ARCHITECTURES[0], given)


def settings(**values):
    return {"tokenizer_config": json.dumps(values).encode()}


def test_prompts_stand_one_behind_the_other():
    assert token_ids(model(), [["a b", "c"], [], ["b"]]) == [[0, 1, 2], [], [1]]


@pytest.mark.parametrize("begin", ["<s>", {"content": "<s>", "lstrip": False}])
def test_the_begin_token_leads_each_prompt(begin):
    assert token_ids(model(**settings(bos_token=begin)), [["a b", "c"]]) == [[3, 0, 1, 3, 2]]


@pytest.mark.parametrize("begin", [None, "<none>"])
def test_a_begin_token_that_there_is_not_is_left_out(begin):
    assert token_ids(model(**settings(bos_token=begin)), [["a"]]) == [[0]]


def test_a_token_without_a_row_is_refused():
    with pytest.raises(PlanError) as error:
        token_ids(model(vocab=2), [["a b"], ["c"]])
    assert str(error.value) == (
        "`m` has 2 rows of embeddings, got token 2 from a prompt; make them fit with `stitch.resize_vocab`"
    )


def test_a_model_without_a_tokenizer_is_refused():
    with pytest.raises(PlanError) as error:
        token_ids(view("m", tiny_specs(), tiny_config(), ARCHITECTURES[0]), [["a"]])
    assert str(error.value) == (
        "`m` has no tokenizer.json, which prompts are read by; save its tokenizer with transformers beside it, "
        "or take another `gate`"
    )


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(PlanError, match=r"^tokenizer\.json of `m` cannot be read: .*; mend or replace it$"):
        token_ids(model(tokenizer=b"{}"), [["a"]])


@pytest.mark.parametrize("text", [b"{", b"[]"])
def test_settings_that_are_none_are_refused(text):
    with pytest.raises(
        PlanError, match=r"^tokenizer_config\.json of `m` cannot be read: .*; mend or remove it$"
    ):
        token_ids(model(tokenizer_config=text), [["a"]])


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ResourceError) as error:
        token_ids(model(), [["a"]])
    assert str(error.value) == (
        "gate: cheap_embed needs `tokenizers`, which is not installed; pip install 'model-surgery[hf]'"
    )
