"""Several documents, what is written, where findings point; and documents that are no merges."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError
from surgery.recipe.document import Position
from surgery_mergekit import surgery_read_recipe

FIRST = "name: first\nmerge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
SECOND = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: first}]\nparameters: {t: 0.5}\n"


def test_documents_are_one_graph(translate):
    data = translate(f"{FIRST}---\n{SECOND}").data
    assert list(data["steps"]) == ["first", "merged"]
    assert data["steps"]["merged"]["models"] == ["a", "first"]
    assert data["output"] == {"model": "merged", "tokenizer": "a"}


@pytest.mark.parametrize("dtype", ["", "dtype: bfloat16\n", "out_dtype: bfloat16\n"])
def test_compat_rounds_between_documents(translate, dtype):
    steps = translate(f"{FIRST}{dtype}compat: mergekit\n---\n{SECOND}").data["steps"]
    said = {"dtype": "bfloat16"} if dtype else {}
    assert steps["first-stored"] == {"op": "merge.cast", "model": "first", **said}
    assert steps["merged"]["models"][1] == "first-stored"


def test_what_lies_between_documents_is_rounded_once_or_twice(values):
    text = """
name: third
merge_method: linear
models: [{model: memory:one, parameters: {weight: 1}}, {model: memory:zero, parameters: {weight: 2}}]
out_dtype: bfloat16
---
merge_method: passthrough
models: [{model: third, parameters: {scale: 3}}]
out_dtype: float32
"""
    assert set(values(text).values()) == {1.0}
    compat = values(text.replace("out_dtype: bfloat16", "out_dtype: bfloat16\ncompat: mergekit"))
    assert set(compat.values()) == {1.00195}  # a third is 0.333984375 in bfloat16


def test_the_order_of_documents_does_not_matter(translate):
    data = translate(f"{SECOND}---\n{FIRST}").data
    assert data["steps"]["merged"]["models"] == ["a", "first"]


def test_a_document_may_have_the_name_that_results_have_here(translate):
    data = translate(f"{FIRST.replace('first', 'merged')}---\n{SECOND.replace('first', 'merged')}").data
    assert data["output"]["model"] == "merged-2"
    assert data["steps"]["merged-2"]["models"] == ["a", "merged"]


def test_names_stand_for_models_only(translate):
    data = translate(f"{FIRST.replace('first', 'slerp')}---\n{SECOND.replace('first', 'slerp')}").data
    assert data["steps"]["merged"]["op"] == "merge.slerp"
    assert data["steps"]["merged"]["models"] == ["a", "slerp"]


def test_without_a_nameless_document_those_are_written_that_no_other_one_takes(translate):
    named = f"{FIRST}---\nname: second\n{SECOND}"
    assert translate(named).data["output"] == {"model": "second", "tokenizer": "a"}
    two = f"{FIRST}---\n{FIRST.replace('first', 'other')}"
    assert translate(two).data["outputs"] == {
        "first": {"model": "first", "tokenizer": "a", "to": "./first"},
        "other": {"model": "other", "tokenizer": "a", "to": "./other"},
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{FIRST}---\n{FIRST}", "m.yaml:6:7: name: two documents are called `first`; rename one"),
        (
            f"{SECOND}---\n{SECOND}",
            "m.yaml:6:1: a second document without `name:`; one may have none, and is what is written",
        ),
        (
            FIRST.replace("first", "1 st"),
            "m.yaml:1:7: name: must begin with a letter and go on with letters, digits, `_`, `.` and `-`, got `1 st`",
        ),
        (
            f"{FIRST}---\n{SECOND.replace('first', 'first+lora')}",
            "m.yaml:8:30: models[1].model: `first` is the result of a document, which takes no adapter here; "
            "run that document first and name its folder",
        ),
    ],
)
def test_names_that_do_not_work_are_refused(wrong, text, line):
    assert line in wrong(text)


def test_findings_name_the_line_of_the_document(values):
    text = "merge_method: linear\nmodels:\n  - {model: memory:one, parameters: {weight: 1}}\n"
    text += "  - {model: memory:two, parameters: {weight: [{filter: nowhere, value: 1}, {value: -1}]}}\n"
    with pytest.raises(PlanError) as error:
        values(text)
    found = str(error.value).split("\n")
    assert found[-1] == (
        "<recipe>:4:5: steps.merged.models.memory-two: selector `*nowhere*` matches no tensor; "
        "see the names with `surgery inspect`"
    )
    assert "the weights 1, -1 sum to 0" in found[0]


def test_vocabularies_that_differ_are_told_of_in_the_words_of_the_document(values):
    from tests.plugins.mergekit.conftest import constant

    constant("wide", 1.0, vocab=80)
    with pytest.raises(PlanError) as error:
        values(
            "merge_method: linear\nmodels: [{model: memory:one}, {model: memory:wide}]\nparameters: {weight: 1}\n"
        )
    assert str(error.value) == (
        "<recipe>:1:15: steps.merged: `memory-one` and `memory-wide` differ at model.embed_tokens.weight: "
        "(32, 16) and (80, 16) (and 1 more such tensors); make the vocabularies equal with "
        "`tokenizer_source: union` or `tokenizer_source: base`"
    )


def test_places_lead_back_to_what_was_written(translate):
    places = translate(FIRST.replace("name: first\n", "") + "dtype: float32").places
    assert places["steps", "merged"] == Position(1, 15)
    assert places["steps", "merged", "models", "b"] == Position(2, 22)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "genome: {models: [a]}\ntasks: [x]",
            "m.yaml:1:1: a document for mergekit-evolve, which is not read; write a recipe with holes for "
            "`surgery search`",
        ),
    ],
)
def test_documents_that_are_no_merges_are_refused_by_name(wrong, text, line):
    assert wrong(text) == [line]


def test_strangers_documents_are_left_alone(tmp_path):
    from surgery.recipe.yaml import read_documents

    documents = read_documents("models: [a]\nmethod: linear")
    assert surgery_read_recipe(documents[0].data, documents, tmp_path) is None
