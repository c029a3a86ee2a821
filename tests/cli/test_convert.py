from __future__ import annotations

import pytest

DOCUMENT = """\
merge_method: ties
base_model: base
models:
  - model: base
  - {model: code, parameters: {weight: [0, 1], density: 0.5}}
  - {model: math, parameters: {weight: 0.5, density: 0.5}}
parameters: {int8_mask: true}
dtype: bfloat16
"""

CONVERTED = """\
# What kit.yaml means.
# - Ramps end at the final norm and the head, which mergekit gives the value of the embeddings; with
#   `compat: mergekit` so do we.
# - Inputs are rounded to bfloat16 as in mergekit, but computed with in float32 and rounded once: compare
#   with mergekit's `dtype: float32`.
surgery: 1
models:
  base: {source: ./base, dtype: bfloat16}
  code: {source: ./code, dtype: bfloat16}
  math: {source: ./math, dtype: bfloat16}
steps:
  merged:
    op: merge.ties
    base: base
    models:
      code:
        weight: [0, 1]
        density: 0.5
      math: {weight: 0.5, density: 0.5}
    lambda: 1.0  # mergekit's default
    normalize: true  # mergekit's default
    rescale: none  # mergekit's default
    missing: skip
    tokenizer: accept
output: {model: merged, dtype: bfloat16, tokenizer: base}
"""

WARNING = "warning: kit.yaml:7:14: parameters.int8_mask: `int8_mask` does nothing in `ties`\n"


@pytest.fixture
def kit(work):
    (work / "kit.yaml").write_text(DOCUMENT)
    return work


def test_a_document_is_shown_as_a_recipe_with_what_is_otherwise_on_top(kit, surgery):
    result = surgery("convert", "kit.yaml")
    assert (result.exit_code, result.stdout, result.stderr) == (0, CONVERTED, WARNING)


def test_the_recipe_makes_the_bytes_that_the_document_makes(kit, surgery):
    assert surgery("convert", "kit.yaml", "--out", "native.yaml").exit_code == 0
    assert surgery("run", "kit.yaml", "--out", "a").exit_code == 0
    assert surgery("run", "native.yaml", "--out", "b").exit_code == 0
    first, second = (kit / name / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert (kit / "a" / "config.json").read_bytes() == (kit / "b" / "config.json").read_bytes()


def test_paths_are_those_from_the_new_files_folder(kit, surgery):
    (kit / "recipes").mkdir()
    result = surgery("convert", "kit.yaml", "--out", "recipes/native.yaml")
    assert result.stdout.split("\n")[0] == (
        "wrote recipes/native.yaml; look at it, then `surgery plan recipes/native.yaml`"
    )
    assert 'source: "../base"' in (kit / "recipes" / "native.yaml").read_text()
    assert surgery("plan", "recipes/native.yaml").exit_code == 0


def test_a_file_is_not_replaced_unless_asked(kit, surgery):
    (kit / "native.yaml").write_text("mine")
    result = surgery("convert", "kit.yaml", "--out", "native.yaml")
    assert (result.exit_code, result.stderr) == (
        2,
        WARNING + "error: native.yaml: exists; choose another name or pass --force\n",
    )
    assert surgery("convert", "kit.yaml", "--out", "native.yaml", "--force").exit_code == 0
    assert (kit / "native.yaml").read_text() == CONVERTED


def test_compat_asks_for_the_tools_own_numbers(kit, surgery):
    made = surgery("convert", "kit.yaml", "--compat", "mergekit").stdout
    assert made.endswith("head_depth: 0\non_unmatched: warn\n")
    assert "Ramps" not in made


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "surgery: 1\nmodels: {a: ./base}\n",
            "is a recipe of ours already; `surgery plan` shows what it does",
        ),
        ("other: 1\n", "no plugin reads it; see `surgery plugins` for those there are"),
        ("- 1\n", "no plugin reads it; see `surgery plugins` for those there are"),
    ],
)
def test_what_nobody_translates_is_refused(kit, surgery, text, line):
    (kit / "x.yaml").write_text(text)
    result = surgery("convert", "x.yaml")
    assert (result.exit_code, result.stderr) == (2, f"error: x.yaml: {line}\n")


def test_what_is_wrong_with_a_document_is_told_with_its_lines(kit, surgery):
    (kit / "x.yaml").write_text(DOCUMENT.replace("density: 0.5}}\n  -", "densty: 0.5}}\n  -"))
    result = surgery("convert", "x.yaml")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: x.yaml:5:48: models[1].parameters.densty: unknown parameter `densty`; did you mean `density`?\n"
    )


def test_a_published_output_holds_the_recipe_in_our_format(kit, surgery):
    import json

    assert surgery("run", "kit.yaml", "--out", "made").exit_code == 0
    text = json.loads((kit / "made" / "surgery.json").read_text())["recipe"]
    assert text.startswith("surgery: 1\n")
    assert surgery("reproduce", "made").exit_code == 0
