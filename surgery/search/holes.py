"""What may be written in a hole.

    ${search: [0, 1.5]}                                        a number of a range
    ${search: {range: [1.0e-4, 1], log: true}}                 even in the logarithm
    ${search: {choices: [2, 3, 4]}}                            one of several values
    ${search: {range: [0, 1], by: layers(4)}}                  a ramp over depth with four points
    ${search: {range: [0, 1], by: [attention, default]}}       a number for each selector
    ${search: {range: [0, 1], by: {layers: 4, roles: [attention, default]}}}     a ramp for each selector

A hole that an alias repeats is one hole: both places get the same value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from surgery.errors import RecipeError
from surgery.recipe.document import Document, KeyPath, Position, Problem, dotted, shown
from surgery.recipe.model import Written
from surgery.recipe.problems import problems_of
from surgery.recipe.select import compile_selector
from surgery.scalars import DEFAULT_SELECTOR
from surgery.trials import Gene, Value

_LAYERS: Final = re.compile(r"\s*layers\(\s*([0-9]{1,4})\s*\)\s*")
_BY: Final = "must be `layers(4)`, a list of selectors, or `{layers: 4, roles: [...]}`"


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, got {shown(value)}")
    return float(value)


def _choice(value: Any) -> Value:
    if isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"must be a number, text, `true` or `false`, got {shown(value)}")


def _role(text: str) -> str:
    if text != DEFAULT_SELECTOR:
        compile_selector(text)
    return text


def _by(value: Any) -> Any:
    """Return the long form of what is written after `by:`."""
    if isinstance(value, list):
        return {"roles": value}
    if isinstance(value, str) and (found := _LAYERS.fullmatch(value)):
        return {"layers": int(found[1])}
    if isinstance(value, dict):
        return value
    raise ValueError(f"{_BY}, got {shown(value)}")


End = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Choice = Annotated[Any, BeforeValidator(_choice)]
RoleText = Annotated[str, AfterValidator(_role)]


class By(Written):
    """How many values a hole stands for: points over depth, selectors, or points for each selector."""

    layers: Annotated[int, Field(ge=2, le=1000)] | None = None
    roles: Annotated[list[RoleText], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.layers is None and self.roles is None:
            raise ValueError(f"{_BY}, got neither")
        if self.roles and len(set(self.roles)) < len(self.roles):
            raise ValueError("a selector is listed twice; list it once")
        return self


class Spec(Written):
    """A hole as it is written; a list alone is its range."""

    range: Annotated[list[End], Field(min_length=2, max_length=2)] | None = None
    log: bool = False
    choices: Annotated[list[Choice], Field(min_length=2)] | None = None
    by: Annotated[By | None, BeforeValidator(_by)] = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.range is None) == (self.choices is None):
            raise ValueError("must say either `range: [low, high]` or `choices: [...]`")
        if self.range is not None:
            low, high = self.range
            if not low < high:
                raise ValueError(f"the range must begin below its end, got [{low:g}, {high:g}]")
            if self.log and low <= 0:
                raise ValueError(f"a range with `log: true` must begin above 0, got [{low:g}, {high:g}]")
        if self.choices is not None and self.log:
            raise ValueError("`log` belongs to a range, not to choices; remove it")
        return self


@dataclass(frozen=True, slots=True)
class Hole:
    """A hole: the paths it fills, and its genes. `value` puts their values into the form the recipe wants."""

    paths: tuple[KeyPath, ...]
    spec: Spec
    genes: tuple[Gene, ...]

    def value(self, values: list[Value]) -> Any:
        """Return what stands in the place of the hole, given a value for each gene."""
        by = self.spec.by
        if by is None:
            return values[0]
        if by.roles is None:
            return list(values)
        each = by.layers or 1
        parts = [list(values[i : i + each]) for i in range(0, len(values), each)]
        return {role: part if by.layers else part[0] for role, part in zip(by.roles, parts, strict=True)}


def read_holes(document: Document) -> list[Hole]:
    """Return the holes of a document in the order of its text. Raises RecipeError with all that is wrong in them."""
    places: dict[Position | None, list[KeyPath]] = {}
    for path in document.holes:
        places.setdefault(document.position(path), []).append(path)
    problems: list[Problem] = []
    holes: list[Hole] = []
    for paths in places.values():
        problems += [Problem(path, _ELSEWHERE) for path in paths if path[0] != "steps"]
        spec = _spec(document, paths[0], problems)
        if spec is not None:
            holes.append(Hole(tuple(paths), spec, _genes(spec, dotted(paths[0]))))
    if problems:
        raise RecipeError(document.findings(problems))
    return holes


_ELSEWHERE: Final = "a hole may only stand in a step; write a value here"


def _spec(document: Document, path: KeyPath, problems: list[Problem]) -> Spec | None:
    """Return what a hole says; what is wrong with it is added to `problems`."""
    written = document.data
    for part in path:
        written = written[part]
    inside = written["search"]
    if len(written) > 1:
        problems.append(Problem(path, "a hole is `${search: ...}` with nothing beside `search`"))
        return None
    if not isinstance(inside, list | dict):
        what = (
            f"a hole is `${{search: [low, high]}}` or `${{search: {{choices: [...]}}}}`, got {shown(inside)}"
        )
        problems.append(Problem(path, what))
        return None
    data = {"range": inside} if isinstance(inside, list) else inside
    try:
        return Spec.model_validate(data)
    except ValidationError as error:
        skip = 1 if isinstance(inside, list) else 0  # `range` is not written in the short form
        found = problems_of(error, data, Spec)
        problems += [Problem((*path, "search", *one.path[skip:]), one.what, one.key) for one in found]
        return None


def _genes(spec: Spec, name: str) -> tuple[Gene, ...]:
    low, high = spec.range or (0.0, 1.0)

    def gene(suffix: str) -> Gene:
        return Gene(name + suffix, low, high, spec.log, tuple(spec.choices or ()))

    if spec.by is None:
        return (gene(""),)
    points = [f"[{i}]" for i in range(spec.by.layers)] if spec.by.layers else [""]
    roles = [f'["{role}"]' for role in spec.by.roles or []] or [""]
    return tuple(gene(role + point) for role in roles for point in points)
