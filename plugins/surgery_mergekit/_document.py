"""One document becomes steps: models merged whole, or slices of their layers merged and stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from surgery.recipe.document import KeyPath
from surgery_mergekit._inputs import check_models, with_base
from surgery_mergekit._reading import Reading
from surgery_mergekit._references import Models, Reference, reference
from surgery_mergekit._settings import Settings
from surgery_mergekit._slices import stack
from surgery_mergekit._step import Input, Made, Scope, merge_step, scope_of

_FORMS: Final = ("models", "slices", "modules")


@dataclass(slots=True)
class Steps:
    """The steps of a document by name, in order; the last is its result. `donor` gives config.json and tokenizer."""

    made: dict[str, Made] = field(default_factory=dict)
    donor: Reference | None = None


def steps_of(reading: Reading, settings: Settings, data: Mapping[str, Any], models: Models) -> Steps:
    """Return the steps that a document describes. What is wrong is noted."""
    form, holder, path, scopes = _form(reading, settings, data)
    if form is None:
        return Steps()
    if form == "models":
        return _merged(reading, settings, holder["models"], path, scopes, models)
    steps, donor = stack(reading, settings, holder["slices"], path, scopes, models)
    return Steps(steps, settings.base or donor)


def _form(
    reading: Reading, settings: Settings, data: Mapping[str, Any]
) -> tuple[str | None, Mapping[str, Any], KeyPath, list[Scope]]:
    """Return which form a document has, what holds it, where that is, and the scopes around it."""
    top = scope_of(reading, data, (), settings)
    form = _one_of(reading, data, (), _FORMS)
    if form != "modules":
        return form, data, (form or "",), [top]
    modules = reading.mapping(data["modules"], ("modules",), _dictionary(data["modules"]))
    path: KeyPath = ("modules", "default")
    for name in modules:
        if name != "default":
            what = f"the module `{name}` is not read: steps choose tensors by `where:` here"
            reading.refuse(("modules", name), f"{what}; convert the other documents and write a step for it")
    if "default" not in modules:
        return None, data, path, []
    inner = reading.mapping(modules["default"], path, ("slices", "models", "parameters"))
    form = _one_of(reading, inner, path, ("models", "slices"))
    return form, inner, (*path, form or ""), [scope_of(reading, inner, path, settings), top]


def _dictionary(value: Any) -> Sequence[str]:
    return list(value) if isinstance(value, dict) else ()


def _one_of(reading: Reading, holder: Mapping[str, Any], path: KeyPath, forms: Sequence[str]) -> str | None:
    there = [form for form in forms if holder.get(form) is not None]
    if len(there) == 1:
        return there[0]
    of = " and ".join(f"`{form}`" for form in there) or "none"
    wanted = ", ".join(f"`{form}`" for form in forms)
    reading.refuse((*path, *there[1:2]), f"must have exactly one of {wanted}, got {of}", key=bool(there))
    return None


def _merged(
    reading: Reading, settings: Settings, raw: Any, path: KeyPath, scopes: list[Scope], models: Models
) -> Steps:
    """Return the one step that merges whole models."""
    inputs: list[Input] = []
    for i, entry in enumerate(reading.listed(raw, path, "models")):
        one = _input(reading, settings, entry, (*path, i), models, inputs)
        if one is not None:
            inputs.append(one)
    base = with_base(reading, settings, models, inputs)
    if reading.problems or not check_models(reading, settings, inputs, base, path):
        return Steps()
    first = base or inputs[0]
    if settings.method.base == "input":  # the base gives config.json and tokenizer
        inputs.sort(key=lambda one: one is not first)
    return Steps({settings.name: merge_step(reading, settings, inputs, base, scopes)}, first.model)


def _input(
    reading: Reading, settings: Settings, entry: Any, path: KeyPath, models: Models, before: Sequence[Input]
) -> Input | None:
    if isinstance(entry, dict) and "model" not in entry:
        reading.refuse(path, "names no model; add `model:`")
    entry = reading.mapping(entry, path, ("model", "parameters", "layer_range"))
    if "layer_range" in entry:
        what = "`layer_range` is passed over below `models`; write `slices` to take layers"
        reading.warn((*path, "layer_range"), what, key=True)
    scope = scope_of(reading, entry, path, settings)
    model = reference(reading, entry["model"], (*path, "model")) if "model" in entry else None
    if model is None:
        return None
    name = models.name(model, settings.dtype, {one.name for one in before})
    return Input(name, model, scope, path)
