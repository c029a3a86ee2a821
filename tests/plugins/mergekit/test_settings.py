"""What holds for a whole document, and everything wrong with it at once."""

from __future__ import annotations

import pytest

LINEAR = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n"


def test_everything_wrong_is_told_at_once_with_lines_and_suggestions(wrong):
    text = """\
merge_method: dare-ties
base_model: base
models:
  - model: a
    paramters: {weight: 1}
  - model: b
    parameters: {weight: 1, densty: .5}
dtype: bfloat
"""
    assert wrong(text) == [
        "m.yaml:1:15: merge_method: unknown method, got `dare-ties`; "
        "did you mean `dare_ties` or `ties` or `dare_linear`?",
        "m.yaml:5:5: models[0].paramters: unknown key `paramters`; did you mean `parameters`?",
        "m.yaml:7:29: models[1].parameters.densty: unknown parameter `densty`; did you mean `density`?",
        "m.yaml:8:8: dtype: must be a floating-point dtype, got `bfloat`; "
        "did you mean `bfloat16` or `float64` or `float32`?",
    ]


@pytest.mark.parametrize(
    ("dtypes", "read", "stored"),
    [
        ("dtype: bfloat16", "bfloat16", "bfloat16"),
        ("dtype: torch.float32\nout_dtype: float16", "float32", "float16"),
        ("out_dtype: torch.bfloat16", None, "bfloat16"),
        ("", None, None),
    ],
)
def test_dtype_rounds_what_is_read_and_out_dtype_what_is_stored(translate, dtypes, read, stored):
    data = translate(LINEAR + dtypes).data
    sources = data["models"].values()
    assert [source.get("dtype") if isinstance(source, dict) else None for source in sources] == [read, read]
    assert data["output"].get("dtype") == stored


@pytest.mark.parametrize("word", ["int64", "torch.int8", "16"])
def test_other_dtypes_are_refused(wrong, word):
    assert f"dtype: must be a floating-point dtype, got `{word}`" in wrong(LINEAR + f"dtype: {word}")[0]


def test_compat_puts_the_head_with_the_embeddings_and_passes_over_idle_filters(translate):
    assert "head_depth" not in translate(LINEAR).data
    data = translate(LINEAR + "compat: mergekit").data
    assert (data["head_depth"], data["on_unmatched"]) == (0, "warn")


def test_compat_names_mergekit(wrong):
    assert wrong(LINEAR + "compat: yes") == ["m.yaml:4:9: compat: must be `mergekit`, got `yes`"]


@pytest.mark.parametrize(
    ("forms", "line"),
    [
        ("", "m.yaml:1:1: must have exactly one of `models`, `slices`, `modules`, got none"),
        (
            "models: [{model: a}]\nslices: []",
            "m.yaml:4:1: slices: must have exactly one of `models`, `slices`, `modules`, got `models` and `slices`",
        ),
        ("models: []", "m.yaml:3:9: models: must be a list of models, got an empty list"),
        ("models: a", "m.yaml:3:9: models: must be a list of models, got `a`"),
        ("models: [{}]", "m.yaml:3:10: models[0]: names no model; add `model:`"),
        ("models: [a]", "m.yaml:3:10: models[0]: must be a mapping, got `a`"),
    ],
)
def test_a_document_has_one_form(wrong, forms, line):
    assert line in wrong("merge_method: linear\nparameters: {weight: 1}\n" + forms)
