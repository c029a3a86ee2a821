from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from surgery.errors import RecipeError
from surgery.ops import Op, Params, Split, layout_op, op
from surgery.recipe.load import parse_recipe
from surgery.recipe.resolve_ops import ResolvedStep, resolve_steps
from surgery.scalars import Scalar, Share


class Rule(StrEnum):
    SIGN = "sign"
    MASS = "mass"


class Mix(Params):
    normalize: bool = True
    """Divide by the sum of the weights."""
    scale: Scalar = 1.0
    """What the sum is multiplied by."""
    elect: Literal["sum", "count"] = "sum"
    rule: Rule = Rule.MASS
    points: tuple[float, float] = (0.0, 1.0)
    step: Annotated[int, Field(gt=0)] = 1


class MixEach(Params):
    weight: Scalar = 1.0
    """The model's share."""
    density: Share = 1.0


class Piece(Params):
    """A stretch of layers of one model."""

    model: str
    layers: tuple[int, int]


class Stack(Params):
    slices: list[Piece]
    """The stretches, from the first layer to the last."""


class Blend(Params):
    t: Share
    """Where between the ends."""


class Only(Params):
    importance: float


@op("toy.mix", params=Mix, each=MixEach, base="required", models=(1, None), cite="Someone, 2024, eq. 3")
def mix(x: Any, params: Mix) -> Any:
    """Mix models.

    The sum of what they add to the base.
    """


@op("toy.blend", params=Blend, models=2, ordered=True, base="optional")
def blend(x: Any, params: Blend) -> Any:
    """Blend two models."""


@op("toy.copy", models=1, vectors="skip")
def copy(x: Any, params: Any) -> Any:
    """Copy a model."""


@op("toy.rank", each=Only, models=(2, 3), split=Split.TENSOR)
def rank(x: Any, params: Any) -> Any:
    """Rank two or three models."""


@op("toy.noise", models=(0, 1))
def noise(x: Any, params: Any) -> Any:
    """Make noise, of a model's shape or not."""


@layout_op("toy.stack", params=Stack)
def stack(models: Any, params: Stack) -> Any:
    """Stack layers."""


@pytest.fixture(scope="session")
def toys() -> dict[str, Op]:
    return {one.name: one for one in (mix, blend, copy, rank, noise, stack)}


@pytest.fixture(scope="session")
def lines() -> Callable[[Callable[[], object]], list[str]]:
    """Call something and return the findings of the RecipeError that it must raise, as text."""

    def lines(call: Callable[[], object]) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            call()
        return str(caught.value).split("\n")

    return lines


@pytest.fixture(scope="session")
def resolve(toys: dict[str, Op]) -> Callable[[str], dict[str, ResolvedStep]]:
    """Resolve the steps of a recipe whose models are a, b, c and base; the text begins on line 4."""

    def resolve(steps: str) -> dict[str, ResolvedStep]:
        head = "surgery: 1\nmodels: {a: ./a, b: ./b, c: ./c, base: ./base}\noutput: {model: a}\nsteps:\n"
        return resolve_steps(parse_recipe(head + steps, "r.yaml"), toys)

    return resolve
