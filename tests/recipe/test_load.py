from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from surgery.errors import Finding, PluginError, RecipeError
from surgery.recipe.document import Document, Position
from surgery.recipe.foreign import Translated
from surgery.recipe.load import load_recipe, parse_recipe
from surgery.recipe.yaml import MAX_BYTES

Lines = Callable[[Callable[[], object]], list[str]]

GOOD = """\
surgery: 1
models: {base: ./base, code: ./code}
steps:
  mix: {op: merge.linear, models: {base: 0.5, code: 0.5}}
output: {model: mix, to: ./out}
"""

WRONG = """\
surgery: 1
model:
  base: ./a
models:
  base: ./a
  1x: ./b
  c: {sorce: ./b, adapter: org/lora}
  d: 5
  e:
  f: ''
steps:
  mix:
    op: merge.ties
    base: bse
    models: {c: {weight: 0.5}, base: half, cc: 1}
    where: ["layers[4:2].mlp", "re:(a+)+", 5]
    missing: skp
    tokenizer: union
  base: {op: 3, model: [x]}
  q: {op: merge.linear, models: base}
  z: {model: d, where: {mlp: 1}}
  y: {op: merge.linear, models: [d, d, 4, true]}
  w: 7
output:
  model: 0
  to: 1
  dtpe: bf16
  dtype: bf16
  shard_size: huge
  tokenizer: mix
outputs: {}
seed: -1
on_int: 1
on_nonfinite: yes
"""

FINDINGS = """\
r.yaml:2:1: model: unknown key; did you mean `models`?
r.yaml:6:3: models.1x: a name starts with a letter or `_` and goes on with letters, digits, `_`, `.` and `-`, got `1x`
r.yaml:7:3: models.c: missing key `source`
r.yaml:7:7: models.c.sorce: unknown key; did you mean `source`?
r.yaml:8:6: models.d: must be a path, a Hub id or `{source: ...}`, got `5`
r.yaml:9:5: models.e: must be a path, a Hub id or `{source: ...}`, got `null`
r.yaml:10:6: models.f: must be text, got empty text
r.yaml:14:11: steps.mix.base: no model or step is called `bse`; did you mean `base`?
r.yaml:15:38: steps.mix.models.base: must be a mapping of parameters, or a number for `weight`, got `half`
r.yaml:15:44: steps.mix.models.cc: no model or step is called `cc`; did you mean `c`?
r.yaml:16:13: steps.mix.where[0]: an empty range, got `layers[4:2].mlp`; a range ends before its second index
r.yaml:16:32: steps.mix.where[1]: not a usable regular expression, got `re:(a+)+`: a repetition of what leaves a \
choice takes too long; unnest it
r.yaml:16:44: steps.mix.where[2]: must be text, got `5`
r.yaml:17:14: steps.mix.missing: must be `error`, `skip` or `base`, got `skp`
r.yaml:18:16: steps.mix.tokenizer: must be `accept`, got `union`
r.yaml:19:3: steps.base: a step with the name of a model; rename one of them
r.yaml:19:14: steps.base.op: must be text, got `3`
r.yaml:19:24: steps.base.model: must be text, got a list
r.yaml:20:33: steps.q.models: must be a list of models, or a mapping from models to parameters, got `base`
r.yaml:21:3: steps.z: missing key `op`
r.yaml:21:24: steps.z.where: must be text, got a mapping
r.yaml:22:37: steps.y.models[1]: `d` is listed twice; list it once
r.yaml:22:40: steps.y.models[2]: must be text, got `4`
r.yaml:22:43: steps.y.models[3]: must be text, got `true`
r.yaml:23:6: steps.w: must be a mapping, got `7`
r.yaml:25:10: output.model: must be text, got `0`
r.yaml:26:7: output.to: must be text, got `1`
r.yaml:27:3: output.dtpe: unknown key; did you mean `dtype`?
r.yaml:28:10: output.dtype: must be `bfloat16`, `float16`, `float32` or `float64`, got `bf16`
r.yaml:29:15: output.shard_size: `huge` is not a size; write a number and a unit, such as 5GB, 512MiB or 1.5 GiB
r.yaml:30:14: output.tokenizer: no model is called `mix`; known: `1x`, `base`, `c`, `d`, `e`, `f`
r.yaml:31:1: outputs: both `output` and `outputs`; keep one
r.yaml:31:10: outputs: must have at least 1 entry, got 0
r.yaml:32:7: seed: must be at least 0, got `-1`
r.yaml:33:9: on_int: must be `error` or `first`, got `1`
r.yaml:34:15: on_nonfinite: must be `error`, `zero` or `keep`, got `yes`
"""


def test_everything_wrong_with_a_recipe_is_found_at_once_in_the_order_of_the_text(lines: Lines) -> None:
    assert lines(lambda: parse_recipe(WRONG, "r.yaml")) == FINDINGS.splitlines()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml: the recipe is empty; begin with `surgery: 1`"),
        ("# nothing\n", "r.yaml: the recipe is empty; begin with `surgery: 1`"),
        ("- a", "r.yaml:1:1: a recipe is a mapping that begins with `surgery: 1`, got a list"),
        ("merge", "r.yaml:1:1: a recipe is a mapping that begins with `surgery: 1`, got `merge`"),
        (
            "merge_method: ties\nbase_model: a",
            "r.yaml:1:1: not a recipe: no key `surgery`, and no plugin reads it; begin with `surgery: 1`",
        ),
        (
            "models: {}\nsurgery: 2",
            "r.yaml:2:10: surgery: unknown recipe format, got `2`; this release reads `surgery: 1`",
        ),
        (
            "surgery: true",
            "r.yaml:1:10: surgery: unknown recipe format, got `true`; this release reads `surgery: 1`",
        ),
        (
            "surgery: '1'",
            "r.yaml:1:10: surgery: unknown recipe format, got `1`; this release reads `surgery: 1`",
        ),
        (
            "surgery: 1.0",
            "r.yaml:1:10: surgery: unknown recipe format, got `1.0`; this release reads `surgery: 1`",
        ),
        ("models: {a: a}\noutput: {model: a}", "r.yaml:1:1: missing key `surgery`"),
    ],
)
def test_what_is_no_recipe_of_this_version_is_one_finding(text: str, message: str, lines: Lines) -> None:
    assert lines(lambda: parse_recipe(text, "r.yaml")) == [message]


def test_an_almost_empty_recipe_says_what_it_lacks(lines: Lines) -> None:
    assert lines(lambda: parse_recipe("surgery: 1", "r.yaml")) == [
        "r.yaml:1:1: missing key `output`",
        "r.yaml:1:1: missing key `models`",
    ]
    text = "surgery: 1\nmodels: {}\nsteps:\noutput:\n"
    assert lines(lambda: parse_recipe(text, "r.yaml")) == [
        "r.yaml:1:1: missing key `output`",
        "r.yaml:2:9: models: must have at least 1 entry, got 0",
        "r.yaml:3:7: steps: must be a mapping, got `null`",
    ]


def test_a_file_is_read_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(GOOD)
    for given_path in (path, str(path)):
        recipe = load_recipe(given_path)
        assert (recipe.file, recipe.folder, recipe.text) == (str(path), tmp_path, GOOD)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, lines: Lines) -> None:
    assert lines(lambda: load_recipe(tmp_path / "no.yaml")) == [
        f"{tmp_path}/no.yaml: cannot be read: no such file or directory"
    ]
    assert lines(lambda: load_recipe(tmp_path)) == [f"{tmp_path}: cannot be read: is a directory"]
    assert lines(lambda: load_recipe("a\0b")) == ["a\0b: cannot be read: embedded null byte"]


def test_a_file_that_is_too_long_is_not_read_to_its_end(tmp_path: Path, lines: Lines) -> None:
    path = tmp_path / "long.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert lines(lambda: load_recipe(path)) == [
        f"{path}: the text is too long, got more than {MAX_BYTES:,} bytes"
    ]


def foreign(documents: Sequence[Document], folder: Path) -> dict[str, Any] | None:
    document = documents[0].data
    if "merge_method" not in document:
        return None
    models = {f"m{i}": one["model"] for i, one in enumerate(document["models"])}
    step = {"op": document["merge_method"], "models": list(models)}
    return {"surgery": 1, "models": models, "steps": {"mix": step}, "output": {"model": "mix"}}


def test_another_tools_recipe_is_turned_into_ours() -> None:
    text = "merge_method: merge.linear\nmodels: [{model: a}, {model: b}]\n"
    recipe = parse_recipe(text, "m.yaml", foreign=foreign)
    assert recipe.steps["mix"].models == ["m0", "m1"]
    assert recipe.text == text
    assert recipe.where(("steps", "mix")) == "m.yaml"


def test_findings_about_another_tools_recipe_name_the_file(lines: Lines) -> None:
    text = "merge_method: 3\nmodels: [{model: a}]\n"
    assert lines(lambda: parse_recipe(text, "m.yaml", foreign=foreign)) == [
        "m.yaml: steps.mix.op: must be text, got `3`"
    ]


def test_only_documents_without_our_key_are_offered_to_others(lines: Lines) -> None:
    def never(documents: Sequence[Document], folder: Path) -> dict[str, Any] | None:
        raise AssertionError(documents)

    assert parse_recipe(GOOD, foreign=never).steps
    assert lines(lambda: parse_recipe("- 1", foreign=never))
    assert lines(lambda: parse_recipe("x: 1", "r.yaml", foreign=foreign)) == [
        "r.yaml:1:1: not a recipe: no key `surgery`, and no plugin reads it; begin with `surgery: 1`"
    ]


def test_what_was_translated_keeps_its_places_and_warnings(lines: Lines) -> None:
    warning = Finding("`int8_mask` does nothing", "m.yaml:3:1")

    def translated(documents: Sequence[Document], folder: Path) -> Translated:
        data = {"surgery": 1, "models": {"a": "a"}, "output": {"model": documents[0].data["use"]}}
        return Translated(data, {("output",): Position(2, 6)}, warnings=(warning,))

    recipe = parse_recipe("mine: 1\nuse: a", "m.yaml", foreign=translated)
    assert recipe.document.foreign
    assert recipe.warnings == (warning,)
    assert recipe.where(("output", "model")) == "m.yaml:2:6"
    assert lines(lambda: parse_recipe("mine: 1\nuse: b", "m.yaml", foreign=translated)) == [
        "m.yaml:2:6: output.model: no model or step is called `b`; known: `a`"
    ]


def test_a_tools_own_advice_is_told_instead_of_ours() -> None:
    def translated(documents: Sequence[Document], folder: Path) -> Translated:
        data = {"surgery": 1, "models": {"a": "a"}, "output": {"model": "a"}}
        return Translated(data, advice={"vocabulary": "use their key"})

    recipe = parse_recipe("mine: 1", foreign=translated)
    assert recipe.advice("vocabulary", "use ours") == "use their key"
    assert recipe.advice("another", "use ours") == "use ours"
    assert parse_recipe(GOOD).advice("vocabulary", "use ours") == "use ours"


def test_several_documents_are_read_by_those_who_read_them_all(lines: Lines) -> None:
    def reads(documents: Sequence[Document], folder: Path) -> Translated:
        models = {document.data["name"]: "p" for document in documents}
        return Translated({"surgery": 1, "models": models, "output": {"model": "a"}})

    assert list(parse_recipe("name: a\n---\nname: b", foreign=reads).models) == ["a", "b"]
    assert lines(lambda: parse_recipe("name: a\n---\nname: b", "m.yaml", foreign=lambda d, f: None)) == [
        "m.yaml:3:1: a second document; a recipe is one document: remove the rest"
    ]
    with pytest.raises(PluginError, match="returned the first of several documents; return a"):
        parse_recipe("name: a\n---\nname: b", foreign=lambda d, f: {"surgery": 1})


def test_a_converters_own_complaint_is_passed_on(lines: Lines) -> None:
    def refuses(documents: Sequence[Document], folder: Path) -> dict[str, Any] | None:
        raise RecipeError("no such method")

    assert lines(lambda: parse_recipe("x: 1", foreign=refuses)) == ["no such method"]


def test_thousands_of_unknown_keys_and_names_are_reported_as_a_hundred_each(lines: Lines) -> None:
    keys = "".join(f"k{i}: 1\n" for i in range(300))
    steps = "".join(f"  s{i}: {{op: x, model: n{i}}}\n" for i in range(300))
    assert len(lines(lambda: parse_recipe(GOOD + keys))) == 100
    text = "surgery: 1\nmodels: {a: a}\noutput: {model: a}\nsteps:\n" + steps
    assert len(lines(lambda: parse_recipe(text))) == 100


WORDS = [
    *(
        "surgery",
        "models",
        "steps",
        "output",
        "outputs",
        "op",
        "base",
        "model",
        "where",
        "to",
        "seed",
        "a",
        "b",
    ),
    *(
        ": ",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "1",
        "0.5",
        "null",
        "&x ",
        "*x",
        '"',
        "'",
        "#",
    ),
    *("layers[0:2]", "re:(", "shard_size", "5GB", "tokenizer", "dtype", "missing", "<<", "!!int "),
]


@given(
    st.text(max_size=60)
    | st.binary(max_size=60)
    | st.lists(st.sampled_from(WORDS), max_size=30).map("".join)
    | st.lists(st.sampled_from(WORDS), max_size=20).map(lambda words: GOOD + "".join(words))
    | st.tuples(st.integers(0, len(GOOD)), st.integers(0, 20), st.sampled_from(WORDS)).map(
        lambda cut: GOOD[: cut[0]] + cut[2] + GOOD[cut[0] + cut[1] :]
    )
)
@example(
    "surgery: 1\nmodels: {a: &x {source: a}}\nsteps: *x\noutput: {model: a, shard_size: 99999999999999999999}"
)
@example("surgery: 1\nmodels: {a: a}\noutput: {model: a, to: '~no-such-user/x'}")
@example("surgery: 1\nmodels: {a: a}\noutputs: {a: {model: a, to: ''}, b: {model: a, to: /}}")
def test_any_text_is_a_recipe_or_a_recipe_error_with_places(text: str | bytes) -> None:
    findings, message = (), ""
    try:
        parse_recipe(text, "r.yaml")
    except RecipeError as error:
        findings, message = error.findings, str(error)
    assert all(finding.what and finding.where.startswith("r.yaml") for finding in findings)
    assert len(message.splitlines()) == len(findings)


def test_reading_a_recipe_imports_no_torch() -> None:
    code = (
        "import sys, surgery.recipe.load, surgery.recipe.resolve_ops, surgery.recipe.reference;"
        f"surgery.recipe.load.parse_recipe({GOOD!r}); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_a_misspelled_op_is_named() -> None:
    with pytest.raises(RecipeError) as error:
        parse_recipe(GOOD.replace("op:", "opp:"), "r.yaml")
    assert str(error.value) == "r.yaml:4:3: steps.mix: missing key `op`; `opp` is written, is it this?"
