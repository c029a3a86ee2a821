"""One merge step: its models, and parameters from all scopes that a document has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.errors import did_you_mean
from surgery.recipe.document import KeyPath, Position, clipped
from surgery_mergekit._filters import Slice, as_map
from surgery_mergekit._methods import PASSED_OVER, REQUIRED, Param
from surgery_mergekit._reading import Reading
from surgery_mergekit._references import Reference
from surgery_mergekit._settings import Settings
from surgery_mergekit._values import Case, cases_of


@dataclass(frozen=True, slots=True)
class Scope:
    """A `parameters:` mapping and where it stands."""

    values: Mapping[str, Any]
    path: KeyPath


@dataclass(frozen=True, slots=True)
class Input:
    """A model of a step: its name in the recipe, what it is, its own parameters, its entry, where its layers were."""

    name: str
    model: Reference
    scope: Scope
    path: KeyPath
    where: Slice | None = None


@dataclass(slots=True)
class Made:
    """A step as the recipe has it, where each key came from, and which were not written in the document."""

    step: dict[str, Any]
    places: dict[KeyPath, Position] = field(default_factory=dict)
    defaults: list[KeyPath] = field(default_factory=list)


def scope_of(reading: Reading, holder: Mapping[str, Any], path: KeyPath, settings: Settings) -> Scope:
    """Return the parameters that a mapping holds, after looking at their names."""
    path = (*path, "parameters")
    raw = holder.get("parameters")
    values = reading.mapping(raw, path, raw if isinstance(raw, dict) else ()) if raw is not None else {}
    known = settings.method.parameters
    for name in values:
        if name not in known and name in PASSED_OVER:
            reading.warn((*path, name), f"`{name}` does nothing in `{settings.word}`", key=True)
        elif name not in known:
            what = f"unknown parameter `{clipped(name)}`{did_you_mean(name, known | PASSED_OVER)}"
            reading.refuse((*path, name), what, key=True)
    return Scope(values, path)


def merge_step(
    reading: Reading,
    settings: Settings,
    inputs: Sequence[Input],
    base: Input | None,
    scopes: Sequence[Scope],
    where: Slice | None = None,
) -> Made:
    """Return the step that merges `inputs`, one of which may be `base`; scopes from the innermost on."""
    method, made = settings.method, Made({"op": settings.method.op})
    merged = [one for one in inputs if one is not base or method.base == "input"]
    if method.base == "start" and base is not None:
        merged.insert(0, base)
    elif method.base in ("required", "optional") and base is not None:
        made.step["base"] = base.name
        _pass_over(reading, settings, base)
    each = {one.name: _each(reading, settings, one, scopes, made) for one in merged}
    _put_models(settings, each, made)
    for name, param in method.step.items():
        _put(reading, settings, name, param, scopes, where, made)
    made.step |= method.fixed
    made.places |= {("models", one.name): reading.place(one.path) for one in merged}
    return made


def _put_models(settings: Settings, each: dict[str, dict[str, Any]], made: Made) -> None:
    if settings.word == "passthrough":
        ((made.step["model"], params),) = each.items() or ((None, {}),)
        made.step |= params
    elif not settings.method.each:
        made.step["models"] = list(each)
    elif all(
        list(params) == ["weight"] and isinstance(params["weight"], int | float) for params in each.values()
    ):
        made.step["models"] = {name: params["weight"] for name, params in each.items()}
    else:
        made.step["models"] = each


def _each(
    reading: Reading, settings: Settings, one: Input, scopes: Sequence[Scope], made: Made
) -> dict[str, Any]:
    """Return the parameters of one model. Those of the whole step are not read there."""
    for name in settings.method.step:
        if name in one.scope.values:
            what = f"`{name}` is a parameter of the whole step, passed over for one model; write it above"
            reading.warn((*one.scope.path, name), what, key=True)
    found = {}
    for name, param in settings.method.each.items():
        cases = _cases(reading, name, param, [one.scope, *scopes])
        if cases:
            found[param.native] = as_map(reading, cases, one.where)
        elif param.default is REQUIRED:
            unlisted = "; it was added as the base" if one.path == ("base_model",) else ""
            reading.refuse(one.path, f"missing parameter `{name}`, which `{settings.word}` needs{unlisted}")
    return found


def _put(
    reading: Reading,
    settings: Settings,
    name: str,
    param: Param,
    scopes: Sequence[Scope],
    where: Slice | None,
    made: Made,
) -> None:
    """Put a parameter of the step into it."""
    cases = _cases(reading, name, param, scopes)
    if not cases:
        reading.refuse(
            ("merge_method",), f"missing parameter `{name}`, which `{settings.word}` needs", key=True
        )
        return
    if param.kind == "number":
        value = as_map(reading, cases, where)
    elif cases[0].filter is not None:
        reading.refuse(cases[0].path, f"`{name}` takes one value for all tensors here, got filters")
        return
    else:
        words = param.words if settings.compat else param.unbiased or param.words
        value = words.get(cases[0].value, cases[0].value)
    made.step[param.native] = value
    if cases[0].path:
        made.places[param.native,] = reading.place(cases[0].path)
    else:
        made.defaults.append((param.native,))


def _cases(reading: Reading, name: str, param: Param, scopes: Iterable[Scope]) -> list[Case]:
    """Return what the scopes say of a parameter, the innermost first, down to what holds for every tensor."""
    cases: list[Case] = []
    for scope in scopes:
        for case in cases_of(reading, scope.values.get(name), (*scope.path, name), param.kind):
            cases.append(case)
            if case.filter is None:
                return cases
    if param.default is None:  # absent means: as it is
        return [*cases, Case(None, 1.0, ())] if cases else []
    return cases if param.default is REQUIRED else [*cases, Case(None, param.default, ())]


def _pass_over(reading: Reading, settings: Settings, base: Input) -> None:
    for name in base.scope.values:
        if name in settings.method.parameters:
            what = f"the base has no parameters in `{settings.word}`; `{name}` is passed over"
            reading.warn((*base.scope.path, name), what, key=True)
