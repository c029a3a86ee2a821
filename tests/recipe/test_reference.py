from __future__ import annotations

from typing import Any, Literal

import pytest

from surgery.ops import Op, Params, Space, op
from surgery.recipe.reference import op_reference, recipe_reference, type_text
from surgery.recipe.schema import model_schema
from surgery.scalars import Scalar, Share

MIX = """\
## `toy.mix`

Mix models.

The sum of what they add to the base.

Parameters:

| key | type | default | |
|---|---|---|---|
| `normalize` | `true` or `false` | `true` | Divide by the sum of the weights. |
| `scale` | number, ramp or map from selectors | `1.0` | What the sum is multiplied by. |
| `elect` | `sum` or `count` | `sum` |  |
| `rule` | `sign` or `mass` | `mass` |  |
| `points` | [number, number] | `[0.0, 1.0]` |  |
| `step` | whole number in (0, ∞) | `1` |  |

Parameters for each model, written as `models: {NAME: {...}}`:

| key | type | default | |
|---|---|---|---|
| `weight` | number, ramp or map from selectors | `1.0` | The model's share. |
| `density` | number in [0, 1], ramp or map from selectors | `1.0` |  |

- Models: 1 or more
- Base: required
- Works element by element
- Source: Someone, 2024, eq. 3
"""

STACK = """\
## `toy.stack`

Stack layers.

Parameters:

| key | type | default | |
|---|---|---|---|
| `slices` | list of `Piece` | required | The stretches, from the first layer to the last. |

`Piece`: A stretch of layers of one model.

| key | type | default | |
|---|---|---|---|
| `model` | text | required |  |
| `layers` | [whole number, whole number] | required |  |

- Models: 1 or more, in the order written
- Base: not used
- Works on names and shapes; what is only moved is copied byte by byte
"""

COPY = """\
## `toy.copy`

Copy a model.

- Models: 1
- Base: not used
- Works element by element
- Tensors of fewer than two dimensions are copied from the base or the first model
"""


@pytest.mark.parametrize(("name", "text"), [("toy.mix", MIX), ("toy.stack", STACK), ("toy.copy", COPY)])
def test_an_op_is_described_by_what_it_declares(name: str, text: str, toys: dict[str, Op]) -> None:
    assert op_reference(toys[name]) == text


def test_numbers_of_models_and_optional_bases_are_said(toys: dict[str, Op]) -> None:
    blend, rank = op_reference(toys["toy.blend"]), op_reference(toys["toy.rank"])
    assert "- Models: 2, in the order written\n- Base: optional\n" in blend
    assert "- Models: 2 to 3\n" in rank
    assert "- Works a whole tensor at a time\n" in rank


def test_spaces_other_than_weights_are_said() -> None:
    @op("toy.delta", base="required", gives=Space.DELTA)
    def delta(x: Any, params: Any) -> Any:
        """Subtract the base."""

    assert "- Takes weight, gives delta\n" in op_reference(delta)


def test_the_reference_has_every_key_and_every_op_in_order(toys: dict[str, Op]) -> None:
    text = recipe_reference(reversed(toys.values()))
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads == [
        "# Recipes",
        "## `models`",
        "## `steps`",
        "## `output`",
        "## `search`",
        "## Selectors",
        "# `toy`",
        *(f"## `{name}`" for name in sorted(toys)),
    ]
    assert MIX in text
    assert "| `seed` | whole number in [0, 2^63) | `0` | What random numbers depend on, " in text
    assert (
        "| `models` | map to `Source` | required | Names for the checkpoints that the recipe reads. |" in text
    )
    assert "| `shard_size` | text or whole number | `5GB` | The most bytes that one file holds. |" in text
    assert "\n    layers[4:28]           layers 4 to 27; " in text
    assert text == recipe_reference(toys.values())


def test_the_reference_without_ops_ends_with_the_selectors() -> None:
    assert " ".join(recipe_reference([]).split()).endswith("takes them from all tensors.")


class Types(Params):
    maybe: Scalar | None = None
    worded: Share | Literal["adaptive"] | None = None
    open: float | None = None
    table: dict[str, float] = {}  # noqa: RUF012  pydantic copies it
    names: list[str] = []  # noqa: RUF012
    mixed: int | str | list[int] = 1
    anything: Any = None
    nothing: dict[str, Any] | None = None


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("maybe", "number, ramp or map from selectors"),
        ("worded", "number in [0, 1], ramp or map from selectors or `adaptive`"),
        ("open", "number"),
        ("table", "map to number"),
        ("names", "list of text"),
        ("mixed", "whole number or text or list of whole number"),
        ("anything", "any"),
        ("nothing", "map"),
    ],
)
def test_types_are_put_in_words(key: str, text: str) -> None:
    schema, definitions = model_schema(Types)
    assert type_text(schema["properties"][key], definitions) == text


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ({}, "number"),
        ({"minimum": 0}, "number in [0, ∞)"),
        ({"exclusiveMinimum": 0, "maximum": 1}, "number in (0, 1]"),
        ({"exclusiveMaximum": 0.5}, "number in (-∞, 0.5)"),
        ({"maximum": 1 << 40}, "number in (-∞, 2^40]"),
        ({"maximum": 65536}, "number in (-∞, 65536]"),
    ],
)
def test_bounds_are_an_interval(bounds: dict[str, float], text: str) -> None:
    assert type_text({"type": "number", **bounds}, {}) == text


def test_a_bar_in_a_description_does_not_break_the_table() -> None:
    class Barred(Params):
        key: int = 0
        """One | or
        another."""

    @op("toy.bar", params=Barred)
    def bar(x: Any, params: Any) -> Any:
        """Bar."""

    assert "| `key` | whole number | `0` | One \\| or another. |" in op_reference(bar)
