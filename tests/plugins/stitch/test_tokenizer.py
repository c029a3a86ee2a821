"""stitch.tokenizer: which row goes where, in numbers that can be read off; what is refused."""

from __future__ import annotations

import json

import pytest
import torch

import surgery
from surgery import PlanError, RecipeError, RunOptions
from tests.plugins.stitch.vocabularies import EMBED, HEAD, config, save, tensors

CPU = RunOptions(device="cpu", threads=2, force=True)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Three models: `<e>` and `<m>` are added tokens, x is code's, y is shared by code and math; math is padded."""
    folder = tmp_path_factory.mktemp("vocabularies")
    save(folder / "base", {"a": 0, "b": 1, "c": 2}, {"<e>": 3}, seed=1)
    save(folder / "code", {"b": 0, "a": 1, "x": 2, "c": 3, "y": 4}, seed=2)
    save(folder / "math", {"a": 0, "c": 1, "b": 2, "y": 3}, {"<m>": 4}, seed=3, vocab=6)
    return folder


@pytest.fixture
def run(zoo, tmp_path):
    def make(of, models="[base, code, math]", **params):
        written = json.dumps({"op": "stitch.tokenizer", "of": of, **params})[1:-1]
        text = f"""
surgery: 1
models: {{base: ./base, code: ./code, math: ./math}}
steps: {{m: {{{written}, models: {models}}}}}
output: {{model: m}}
"""
        make.folder = tmp_path / of
        surgery.loads(text, folder=zoo).run(CPU, out=make.folder)
        return tensors(make.folder)

    return make


def rows(zoo, *origins, name=EMBED):
    """Stack rows such as `c2`, the third row of code."""
    models = {model[0]: tensors(zoo / model)[name] for model in ("base", "code", "math")}
    return torch.stack(
        [
            origin if isinstance(origin, torch.Tensor) else models[origin[0]][int(origin[1:])]
            for origin in origins
        ]
    )


def mean(*given):
    return torch.stack(given).double().mean(0).float()


def refused(run, *args, **params):
    with pytest.raises((PlanError, RecipeError)) as error:
        run(*args, **params)
    return str(error.value)


@pytest.mark.parametrize("name", [EMBED, HEAD])
@pytest.mark.parametrize(
    ("of", "origins"),
    [
        ("base", "b0 b1 b2 b3 c2 y m4"),
        ("code", "c1 c0 c3 b3 c2 c4 m4"),
        ("math", "m0 m2 m1 b3 c2 m3 m4"),
    ],
)
def test_a_union_keeps_own_rows_and_takes_what_is_missing(run, zoo, of, origins, name):
    """Ids: a b c <e> x y <m>; x has one owner, y two of which none is the base, so that its row is their mean."""
    y = mean(*rows(zoo, "c4", "m3", name=name))
    wanted = rows(zoo, *(y if origin == "y" else origin for origin in origins.split()), name=name)
    assert torch.equal(run(of)[name], wanted)


def test_everything_else_is_copied_and_config_counts_the_rows(run, zoo):
    made, before = run("code"), tensors(zoo / "code")
    assert all(torch.equal(made[name], before[name]) for name in before if name not in (EMBED, HEAD))
    assert config(run.folder) == {
        **config(zoo / "code"),
        "vocab_size": 7,
        "bos_token_id": 0,
        "eos_token_id": 4,
    }


def test_the_vocabulary_of_a_model(run, zoo):
    y = mean(*rows(zoo, "c4", "m3"))
    assert torch.equal(run("base", source="code")[EMBED], rows(zoo, "b1", "b0", "c2", "b2", y))
    assert (run.folder / "tokenizer.json").read_bytes() == (zoo / "code" / "tokenizer.json").read_bytes()


def test_the_base_goes_before_others_that_have_a_token(run, zoo):
    # c is in base and math, b in both too: the vocabulary of base, for a model that has neither
    assert torch.equal(run("code", source="base")[EMBED], rows(zoo, "c1", "c0", "c3", "b3"))
    made = run("math", "[code, base, math]", source="code", tokens={"c": {"source": "base", "force": True}})
    assert torch.equal(made[EMBED], rows(zoo, "m2", "m0", "c2", "b2", "m3"))


def test_a_base_need_not_be_listed(run, zoo):
    assert torch.equal(run("code", "[code, math], base: base")[EMBED], run("code")[EMBED])


def test_the_own_vocabulary_gives_the_own_bytes(run, zoo):
    made, before = run("math", source="math"), tensors(zoo / "math")
    assert torch.equal(made[EMBED], before[EMBED])  # padding included
    assert config(run.folder) == config(zoo / "math")


def test_padding_is_kept_unless_a_multiple_is_asked_for(run, zoo):
    kept = run("math", source="math", pad_to_multiple_of=1)
    assert torch.equal(kept[EMBED], rows(zoo, "m0", "m1", "m2", "m3", "m4"))


def test_padding_that_a_model_lacks_is_the_mean_of_its_rows(run, zoo):
    made = run("base", "[base, math]", source="math")
    own = rows(zoo, "b0", "b2", "b1", "m3", "m4")
    assert torch.equal(made[EMBED][:5], own[:5])
    assert torch.allclose(made[EMBED][5], mean(*own), rtol=1e-6, atol=0)


def test_rows_are_padded_to_a_multiple_with_the_mean_of_all_tokens(run, zoo):
    made = run("base", pad_to_multiple_of=16)
    union = run("base")[EMBED]
    assert made[EMBED].shape == (16, 16)
    assert torch.equal(made[EMBED][:7], union)
    expected = union.double().mean(0).float()
    assert all(torch.equal(row, made[EMBED][7]) for row in made[EMBED][8:])
    assert torch.allclose(made[EMBED][7], expected, rtol=1e-6, atol=1e-9)


def test_tokens_may_be_given_a_row(run, zoo):
    tokens = {
        "y": {"source": "math"},
        "<e>": {"source": {"kind": "zero"}, "force": True},
        "a": {"source": "code"},
        "new": {"source": {"kind": "model_token", "model": "code", "token": "x"}},
        "last": {"source": {"kind": "model_token", "model": "math", "token_id": 5}},
    }
    made = run("base", tokens=tokens)
    zeros = torch.zeros(16)
    # base has a, so that its entry, which is not forced, does nothing
    assert torch.equal(made[EMBED], rows(zoo, "b0", "b1", "b2", zeros, "c2", "m3", "m4", "c2", "m5"))
    ids = json.loads((run.folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert (ids["new"], ids["last"]) == (7, 8)


def test_a_tied_head_stays_tied_and_gives_its_embeddings(zoo, tmp_path, run):
    save(zoo / "code", {"b": 0, "a": 1, "x": 2, "c": 3, "y": 4}, seed=2, tied=True)
    try:
        assert HEAD not in run("code")
        assert torch.equal(run("base")[HEAD][4], tensors(zoo / "code")[EMBED][2])
    finally:
        save(zoo / "code", {"b": 0, "a": 1, "x": 2, "c": 3, "y": 4}, seed=2)


def test_models_in_one_vocabulary_can_be_merged(zoo, tmp_path):
    steps = [
        f"{model}_u: {{op: stitch.tokenizer, models: [base, code, math], of: {model}}}"
        for model in ("base", "code", "math")
    ]
    text = f"""
surgery: 1
models: {{base: ./base, code: ./code, math: ./math}}
steps:
  {steps[0]}
  {steps[1]}
  {steps[2]}
  m: {{op: merge.linear, models: {{base_u: 1, code_u: 1, math_u: 1}}}}
output: {{model: m}}
"""
    surgery.loads(text, folder=zoo).run(CPU, out=tmp_path / "m")
    c3 = rows(zoo, "b2", "c3", "m1")
    assert torch.allclose(tensors(tmp_path / "m")[EMBED][2], mean(*c3), rtol=1e-6, atol=1e-9)
    with pytest.raises(
        PlanError, match=r"have different tokenizers: .*; give them one with `stitch.tokenizer`"
    ):
        surgery.loads(text.replace("base_u: 1", "base: 1"), folder=zoo).resolve(out=tmp_path / "n")


def test_the_rows_of_a_merge_are_moved_like_those_of_a_file(zoo, tmp_path):
    text = """
surgery: 1
models: {base: ./base, code: ./code}
steps:
  twice: {op: merge.linear, models: {code: {weight: 2}}, normalize: false}
  m: {op: stitch.tokenizer, base: base, models: [twice], of: twice}
output: {model: m}
"""
    surgery.loads(text, folder=zoo).run(CPU, out=tmp_path / "m")
    expected = torch.cat([rows(zoo, "c1", "c0", "c3") * 2, rows(zoo, "b3"), rows(zoo, "c2", "c4") * 2])
    assert torch.equal(tensors(tmp_path / "m")[EMBED], expected)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"source": "cod"}, "source: no model of the step is called `cod`; did you mean `code`?"),
        (
            {"tokens": {"x": {"source": "maths"}}},
            "tokens: `x`: `maths` is none of the step's models; did you mean `math`?",
        ),
        (
            {"tokens": {"x": {"source": "math"}}},
            "tokens: `x`: `math` has no token `x`; name a model that has it",
        ),
        (
            {"tokens": {"x": {"source": {"kind": "model_token", "model": "code", "token_id": 5}}}},
            "tokens: `x`: `code` has 5 rows, got token_id 5; give one of these",
        ),
        (
            {"chat_template": "cod"},
            "chat_template: `cod` is no template and none of the step's models; did you mean `code`?",
        ),
        ({"chat_template": "code"}, "chat_template: `code` has none; name another model"),
    ],
)
def test_what_is_not_there_is_refused(run, params, text):
    assert refused(run, "base", **params).partition("steps.m: ")[2] == text


def test_a_model_that_is_not_listed_is_refused(run):
    assert refused(run, "math", "[base, code]").endswith(
        "`math` is none of the step's models; known: `base`, `code`"
    )


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({}, "steps.m.tokens.x: missing key `source`"),
        (
            {"source": {"kind": "mean"}},
            "steps.m.tokens.x.source: must be a model, `{kind: zero}` or `{kind: model_token, model: ..., token: ...}`",
        ),
        (
            {"source": {"kind": "model_token", "model": "code", "token": "x", "token_id": 1}},
            "takes one of `token` and `token_id`",
        ),
    ],
)
def test_an_entry_that_says_no_source_is_refused(run, rule, text):
    assert text in refused(run, "base", tokens={"x": rule})


def test_rows_of_another_width_are_refused(run, zoo):
    save(zoo / "math", {"a": 0, "c": 1, "b": 2, "y": 3}, {"<m>": 4}, hidden=8, heads=2)
    try:
        assert refused(run, "base").partition("steps.m: ")[2] == (
            f"`base` and `math` differ at {EMBED}: (4, 16) and (5, 8); "
            "rows are taken from models of one width, give the tokens a `source` of their own"
        )
        run("base", source="code", tokens={"y": {"source": "code"}})  # needs no row of math
    finally:
        save(zoo / "math", {"a": 0, "c": 1, "b": 2, "y": 3}, {"<m>": 4}, seed=3, vocab=6)


def test_a_model_without_a_tokenizer_is_refused(run, zoo):
    (zoo / "math" / "tokenizer.json").rename(zoo / "math" / "kept")
    try:
        assert refused(run, "base").partition("steps.m: ")[2] == (
            "`math` has no tokenizer.json, which says which row is which token; "
            "save its tokenizer with transformers beside it"
        )
    finally:
        (zoo / "math" / "kept").rename(zoo / "math" / "tokenizer.json")


def test_sixty_four_tokens_and_two_more_are_sixty_six_in_eighty_rows(tmp_path):
    """The numbers that mergekit's rules give: new ids begin at 64, tokens beyond the rows do not count."""
    letters = {f"t{i}": i for i in range(64)}
    save(tmp_path / "base", letters, {"<far>": 64}, vocab=64, seed=1)
    save(tmp_path / "more", letters, {"<u>": 64, "<v>": 65}, seed=2)
    text = """
surgery: 1
models: {base: ./base, more: ./more}
steps: {m: {op: stitch.tokenizer, models: [base, more], of: base, pad_to_multiple_of: 16}}
output: {model: m, to: ./out}
"""
    surgery.loads(text, folder=tmp_path).run(CPU)
    made, base, more = (tensors(tmp_path / name)[EMBED] for name in ("out", "base", "more"))
    assert made.shape == (80, 16)
    assert torch.equal(made[:66], torch.cat([base, more[64:]]))
    mean = made[:66].double().mean(0)
    assert torch.allclose(made[66:].double(), mean.expand(14, 16), rtol=1e-6, atol=1e-9)
    ids = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["model"]["vocab"]
    assert (ids["<u>"], ids["<v>"], len(ids)) == (64, 65, 66)
