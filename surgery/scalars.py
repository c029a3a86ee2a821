"""Numbers that may change from tensor to tensor: a number, a ramp over depth, or a map from selector to either.

An op's author writes `weight: Scalar = 1.0` and reads a float. A recipe's author writes any of

    weight: 0.6
    weight: [0.2, 0.8]                                  # a ramp over depth, any number of points
    weight: {"layers[0:8].mlp": 0.2, default: 0.5}      # the first selector that matches a tensor wins

and the plan puts the number for the tensor at hand into a copy of the parameters before the op sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

DEFAULT_SELECTOR = "default"


@dataclass(frozen=True, slots=True)
class Ramp:
    """Points spread evenly over the depth of a model, joined by straight lines."""

    points: tuple[float, ...]

    def at(self, depth: float) -> float:
        """Return the value at `depth` in [0, 1]: (1-{s})·g_i + {s}·g_min(i+1, n-1) with s = depth·(n-1)."""
        position = depth * (len(self.points) - 1)
        i = int(position)
        fraction = position - i
        after = self.points[min(i + 1, len(self.points) - 1)]
        return (1 - fraction) * self.points[i] + fraction * after


@dataclass(frozen=True, slots=True)
class BySelector:
    """A value for each selector; the first that matches wins, `default` matches everything."""

    cases: tuple[tuple[str, float | Ramp], ...]


Schedule = float | Ramp | BySelector


@dataclass(frozen=True, slots=True)
class Schedulable:
    """Marks a float parameter that may be scheduled; the bounds hold for every number written."""

    ge: float | None = None
    le: float | None = None
    gt: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        number = core_schema.float_schema(
            ge=self.ge, le=self.le, gt=self.gt, lt=self.lt, allow_inf_nan=False, strict=True
        )
        ramp = core_schema.no_info_after_validator_function(
            lambda points: Ramp(tuple(points)), core_schema.list_schema(number, min_length=1)
        )
        either = _choice({"number": number, "ramp": ramp})
        cases = core_schema.no_info_after_validator_function(
            lambda cases: BySelector(tuple(cases.items())),
            core_schema.dict_schema(core_schema.str_schema(), either, min_length=1),
        )
        return _choice({"number": number, "ramp": ramp, "cases": cases})

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        bounds = {
            "minimum": self.ge,
            "maximum": self.le,
            "exclusiveMinimum": self.gt,
            "exclusiveMaximum": self.lt,
        }
        number = {"type": "number"} | {key: bound for key, bound in bounds.items() if bound is not None}
        either = [number, {"type": "array", "items": number, "minItems": 1}]
        cases = {"type": "object", "additionalProperties": {"anyOf": either}, "minProperties": 1}
        return {"anyOf": [*either, cases]}


def _choice(choices: dict[str, CoreSchema]) -> CoreSchema:
    """Pick the branch by the value's type, so that an error speaks of that branch alone."""

    def branch(value: Any) -> str | None:
        if isinstance(value, Ramp | list | tuple):
            return "ramp"
        if isinstance(value, BySelector | dict):
            return "cases"
        return "number"

    return core_schema.no_info_before_validator_function(
        _as_written,
        core_schema.tagged_union_schema(choices=choices, discriminator=branch),
        serialization=core_schema.plain_serializer_function_ser_schema(_as_written),
    )


def _as_written(value: Any) -> Any:
    """Turn a parsed schedule back into plain data, so that validating twice changes nothing."""
    if isinstance(value, Ramp):
        return list(value.points)
    if isinstance(value, BySelector):
        return {selector: _as_written(case) for selector, case in value.cases}
    return value


def resolve(value: Schedule, depth: float, matches: Callable[[str], bool]) -> float | None:
    """Return the number for a tensor at `depth`; None when no selector of a map matches it."""
    if isinstance(value, Ramp):
        return value.at(depth)
    if isinstance(value, BySelector):
        for selector, case in value.cases:
            if selector == DEFAULT_SELECTOR or matches(selector):
                return case.at(depth) if isinstance(case, Ramp) else case
        return None
    return value


Scalar = Annotated[float, Schedulable()]
Share = Annotated[float, Schedulable(ge=0, le=1)]
