from __future__ import annotations

import json

import pytest

STARTER = """\
# Paths are relative to this file's folder; `org/name` and `org/name@revision` are models on the Hub.
# See what it does with `surgery plan own.yaml`, carry it out with `surgery run own.yaml`.
surgery: 1
models:
  base: ./base
  code: ./code
  math: ./math
steps:
  result:
    # Add what was learned.
    op: own.add
    base: base
    models:
      # weight: Factor of the model.
      # share: How much of it.
      code: {weight: 1.0, share: 0.5}
      math: {weight: 1.0, share: 0.5}
    # How far to go.
    # lambda: 1.0
    # Which way.
    # way: up
    # How far apart.
    t: 0.5
output:
  model: result
  to: ./out
  # dtype: bfloat16                  # how tensors are stored; by default as they are computed
  # tokenizer: base                  # the model whose tokenizer and other files are copied
"""

OWN = '''
from typing import Literal

from pydantic import Field

from surgery import Params, Scalar, Share, op


class Add(Params):
    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """How far to go."""
    way: Literal["up", "down"] = "up"
    """Which way."""
    t: Scalar
    """How far apart."""


class Each(Params):
    weight: Scalar = 1.0
    """Factor of the model."""
    share: Share
    """How much of it."""


@op("own.add", params=Add, each=Each, base="required")
def add(x, p):
    """Add what was learned."""
    return x.base


class Named(Params):
    names: list[str]


@op("own.named", params=Named, models=(2, 3))
def named(x, p):
    """Take by name."""
    return x.models[0]


@op("own.one", models=1)
def one(x, p):
    """Take one."""
    return x.models[0]
'''


@pytest.fixture
def own(work):
    (work / "own.py").write_text(OWN)
    return ("--plugin", "own.py")


def test_a_starter_is_made_from_the_ops_declaration(surgery, work, own):
    result = surgery(
        "new", "recipe", "own.yaml", "code", "math", "--base", "base", "--method", "own.add", *own
    )
    assert (result.exit_code, result.stdout) == (
        0,
        "wrote own.yaml; look at it, then `surgery plan own.yaml`\n",
    )
    assert (work / "own.yaml").read_text() == STARTER


@pytest.mark.parametrize("method", ["linear", "slerp", "ties", "dare_ties", "dare_linear", "task_arithmetic"])
def test_every_merge_starts_with_a_recipe_that_can_be_planned(surgery, work, method):
    made = surgery("new", "recipe", "new.yaml", "code", "math", "--method", method)
    assert made.exit_code == 0, made.stderr
    planned = surgery("plan", "new.yaml")
    assert planned.exit_code == 0, planned.stderr
    assert planned.stderr == ""


def test_without_models_there_are_places_to_fill_in(surgery, work):
    surgery("new", "recipe", "--method", "ties")
    text = (work / "recipe.yaml").read_text()
    assert "  base: ./base\n  model_1: ./model_1\n  model_2: ./model_2\n" in text


def test_paths_are_relative_to_the_recipe(surgery, work):
    (work / "recipes").mkdir()
    absolute = work / "math"
    surgery("new", "recipe", "recipes/mix.yaml", "code", absolute, "org/other@main")
    text = (work / "recipes" / "mix.yaml").read_text()
    assert f"  code: ../code\n  math: {absolute}\n  other: org/other@main\n" in text


@pytest.mark.parametrize("source", ["a b: c", "no", "1.5", "#x", "'quoted'", "*x", "naïve"])
def test_odd_paths_are_quoted(surgery, work, source):
    (work / source).symlink_to(work / "base")
    (work / "recipes").mkdir()
    surgery("new", "recipe", "recipes/odd.yaml", source, "code")
    planned = surgery("plan", "recipes/odd.yaml", "--json")
    assert planned.exit_code == 0, planned.stderr
    assert f"../{source}" in [model["source"] for model in json.loads(planned.stdout)["models"]]


def test_models_of_one_name_are_numbered(surgery, work):
    surgery("new", "recipe", "mix2.yaml", "org/llama", "other/llama")
    assert "  model_1: org/llama\n  model_2: other/llama\n" in (work / "mix2.yaml").read_text()


def test_an_op_of_one_model_says_model(surgery, work, own):
    surgery("new", "recipe", "one.yaml", "code", "--method", "own.one", *own)
    text = (work / "one.yaml").read_text()
    assert "    op: own.one\n    model: code\noutput:\n" in text
    assert surgery("plan", "one.yaml", *own).exit_code == 0


def test_nothing_is_overwritten_unasked(surgery, work):
    before = (work / "mix.yaml").read_text()
    result = surgery("new", "recipe", "mix.yaml")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: mix.yaml: exists; choose another name or pass --force\n",
    )
    assert (work / "mix.yaml").read_text() == before
    assert surgery("new", "recipe", "mix.yaml", "--force").exit_code == 0
    assert (work / "mix.yaml").read_text() != before


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["--method", "own.named"],
            "`own.named` needs `names`, which only you know; write the recipe by hand, see `surgery op own.named`",
        ),
        (["a", "--method", "slerp"], "`merge.slerp` takes 2 models, got 1; give as many"),
        (["a", "b", "--method", "own.one"], "`own.one` takes 1 model, got 2; give as many"),
        (["a", "--base", "b"], "`merge.linear` takes no base; leave --base out"),
        (["--method", "ties2"], "unknown op `merge.ties2`; did you mean `merge.ties`"),
    ],
)
def test_what_has_no_starter_is_2(surgery, work, own, words, complaint):
    result = surgery("new", "recipe", "new.yaml", *words, *own)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {complaint}")
    assert not (work / "new.yaml").exists()


def test_what_is_left_out_is_said(surgery) -> None:
    result = surgery("new", "mix.yaml", "a", "b")
    assert result.exit_code == 2
    assert (
        "nothing called `mix.yaml` can be written; write `surgery new recipe mix.yaml a b`" in result.stderr
    )
