from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from surgery.ops import Params
from surgery.recipe.document import dotted
from surgery.recipe.problems import problems_of
from surgery.scalars import Scalar, Share


class Inner(Params):
    name: str
    size: int = 1


class Other(Params):
    other: int


def even(value: int) -> int:
    if value % 2:
        raise ValueError(f"must be even, got `{value}`")
    return value


class Everything(Params):
    number: float = 0
    whole: int = 0
    flag: bool = False
    text: str = ""
    named: Annotated[str, Field(pattern="^a+$", min_length=2, max_length=4)] = "aa"
    choice: Literal["a", "b"] = "a"
    pair: tuple[int, float] = (1, 1.0)
    several: list[int] = Field(default_factory=list, min_length=1, max_length=2)
    table: dict[str, float] = Field(default_factory=dict)
    inner: Inner | None = None
    inners: list[Inner] = Field(default_factory=list)
    either: float | str | list[str] = 0.0
    unlike: Inner | Other | None = None
    maybe: float | None = None
    weight: Scalar = 1.0
    share: Share = 1.0
    above: Annotated[int, Field(gt=1, lt=5)] = 2
    paired: Annotated[int, AfterValidator(even)] = 0
    renamed: int = Field(0, alias="called")
    when: Annotated[complex, Field()] = 0j


def found(data: Any, model: type[BaseModel] = Everything, **others: str) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json(json.dumps(data), strict=True)
    return [f"{dotted(one.path)}: {one.what}" for one in problems_of(caught.value, data, model, others)]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("number", "0.5", "number: must be a number, got `0.5` in quotes; leave them out"),
        ("number", True, "number: must be a number, got `true`"),
        ("number", None, "number: must be a number, got `null`"),
        ("whole", 1.0, "whole: must be a whole number, got `1.0`"),
        ("whole", "1", "whole: must be a whole number, got `1` in quotes; leave them out"),
        ("flag", "yes", "flag: must be `true` or `false`, got `yes`"),
        ("flag", 1, "flag: must be `true` or `false`, got `1`"),
        ("text", 1, "text: must be text, got `1`"),
        ("text", [], "text: must be text, got a list"),
        ("named", "b", "named: must be text of at least 2 characters, got `b`"),
        ("named", "aaaaa", "named: must be text of at most 4 characters, got `aaaaa`"),
        ("named", "bb", "named: must be text that matches `^a+$`, got `bb`"),
        ("choice", "c", "choice: must be `a` or `b`, got `c`"),
        ("pair", 1, "pair: must be a list, got `1`"),
        ("pair", [1], "pair: too short a list: item [1] is missing"),
        ("pair", [1, 2, 3], "pair: must have at most 2 entries, got 3"),
        ("pair", [1, "x"], "pair[1]: must be a number, got `x`"),
        ("several", [], "several: must have at least 1 entry, got 0"),
        ("several", [1, 2, 3], "several: must have at most 2 entries, got 3"),
        ("several", [1, "x"], "several[1]: must be a whole number, got `x`"),
        ("table", {"a": 1, "b": "x"}, "table.b: must be a number, got `x`"),
        ("table", [1], "table: must be a mapping, got a list"),
        ("inner", 1, "inner: must be a mapping, got `1`"),
        ("inner", {"name": "x", "size": "y"}, "inner.size: must be a whole number, got `y`"),
        ("inner", {"size": 1}, "inner: missing key `name`"),
        ("inner", {"name": "x", "sise": 1}, "inner.sise: unknown key; did you mean `size`?"),
        (
            "inners",
            [{"name": "x"}, {"name": "y", "nam": 1}],
            "inners[1].nam: unknown key; did you mean `name`?",
        ),
        ("either", True, "either: must be a number or text or a list, got `true`"),
        ("either", ["a", 1], "either[1]: must be text, got `1`"),
        ("unlike", 1, "unlike: must be a mapping, got `1`"),
        ("maybe", "x", "maybe: must be a number, got `x`"),
        ("weight", "x", "weight: must be a number, got `x`"),
        ("weight", [0.1, "x"], "weight[1]: must be a number, got `x`"),
        ("weight", [], "weight: must have at least 1 entry, got 0"),
        ("weight", {"mlp": [1, "x"]}, "weight.mlp[1]: must be a number, got `x`"),
        ("weight", {"ramp": "x"}, "weight.ramp: must be a number, got `x`"),
        (
            "weight",
            {"number": {"cases": 1}},
            "weight.number: must be a number or a list of numbers, got a mapping",
        ),
        ("weight", float("inf"), "weight: must be a finite number, got `inf`"),
        ("share", 2, "share: must be at most 1, got `2`"),
        ("share", {"mlp": -1}, "share.mlp: must be at least 0, got `-1`"),
        ("above", 1, "above: must be greater than 1, got `1`"),
        ("above", 5, "above: must be less than 5, got `5`"),
        ("paired", 3, "paired: must be even, got `3`"),
        ("called", "x", "called: must be a whole number, got `x`"),
        ("caled", 1, "caled: unknown key; did you mean `called` or `table` or `named`?"),
        ("zzz", 1, "zzz: unknown key"),
        ("hint", 1, "hint: because"),
        ("inner", {"name": "x", "hint": 1}, "inner.hint: unknown key; known: `name`, `size`"),
        ("bse", 1, "bse: unknown key; did you mean `base`?"),
    ],
)
def test_an_error_of_pydantic_is_put_in_our_words(key: str, value: Any, expected: str) -> None:
    assert found({key: value}, hint="because", base="") == [expected]


def test_an_error_that_has_no_words_of_ours_keeps_pydantics() -> None:
    (line,) = found({"when": "x"})
    assert line.startswith("when: input should be a valid ")
    assert line.endswith(", got `x`")


def test_models_that_are_tried_one_after_the_other_are_all_spoken_of() -> None:
    assert found({"unlike": {"nam": 1}}) == [
        "unlike: missing key `name`",
        "unlike.nam: unknown key; did you mean `name`?",
        "unlike: missing key `other`",
    ]


def test_a_models_own_check_is_reported_at_the_model() -> None:
    class Checked(Params):
        low: int
        high: int

        @model_validator(mode="after")
        def _ordered(self) -> Checked:
            if self.low > self.high:
                raise ValueError(f"`low` must not be above `high`, got `{self.low}` and `{self.high}`")
            return self

    assert found({"low": 2, "high": 1}, Checked) == [": `low` must not be above `high`, got `2` and `1`"]


def test_a_key_of_the_wrong_form_is_reported_at_the_key() -> None:
    class Keyed(BaseModel):
        model_config = ConfigDict(strict=True)
        table: dict[Annotated[str, Field(max_length=2)], int]

    with pytest.raises(ValidationError) as caught:
        Keyed.model_validate({"table": {"abc": 1}})
    (problem,) = problems_of(caught.value, {"table": {"abc": 1}}, Keyed)
    assert (problem.path, problem.key) == (("table", "abc"), True)
    assert problem.what == "must be text of at most 2 characters, got `abc`"


def test_a_hundred_errors_are_enough() -> None:
    assert len(found({f"k{i}": 1 for i in range(300)})) == 100
