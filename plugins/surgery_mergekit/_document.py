"""One document becomes steps: models merged whole, or slices of their layers merged and stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from surgery.recipe.document import KeyPath
from surgery_mergekit._inputs import check_models, with_base
from surgery_mergekit._modules import Steps, assembled
from surgery_mergekit._reading import Reading
from surgery_mergekit._references import Models, reference
from surgery_mergekit._settings import Settings
from surgery_mergekit._slices import stack
from surgery_mergekit._step import Input, Scope, merge_step, scope_of

_FORMS: Final = ("models", "slices", "modules")


def steps_of(reading: Reading, settings: Settings, data: Mapping[str, Any], models: Models) -> Steps:
    """Return the steps that a document describes. What is wrong is noted."""
    top = scope_of(reading, data, (), settings)
    form = _one_of(reading, data, (), _FORMS)
    if form is None:
        return Steps()
    if form != "modules":
        return _read(reading, settings, form, data, (form,), [top], models)
    modules = reading.mapping(data["modules"], ("modules",), _dictionary(data["modules"]))
    if "default" not in modules:

        def merge(own: Settings, holder: Mapping[str, Any], path: KeyPath, scopes: list[Scope]) -> Steps:
            return _read(reading, own, "models", holder, path, scopes, models)

        return assembled(reading, settings, modules, top, models, merge)
    for name in modules:
        if name != "default":
            what = "`default` is the only module of a model that has it"
            reading.refuse(("modules", name), f"{what}, got `{name}` besides; remove one", key=True)
    return _default(reading, settings, modules["default"], top, models)


def _default(reading: Reading, settings: Settings, raw: Any, top: Scope, models: Models) -> Steps:
    path: KeyPath = ("modules", "default")
    inner = reading.mapping(raw, path, ("slices", "models", "parameters"))
    form = _one_of(reading, inner, path, ("models", "slices"))
    scopes = [scope_of(reading, inner, path, settings), top]
    return _read(reading, settings, form, inner, (*path, form), scopes, models) if form else Steps()


def _read(
    reading: Reading,
    settings: Settings,
    form: str,
    holder: Mapping[str, Any],
    path: KeyPath,
    scopes: list[Scope],
    models: Models,
) -> Steps:
    """Return the steps that models or slices describe."""
    if form == "models":
        return _merged(reading, settings, holder["models"], path, scopes, models)
    steps, donor = stack(reading, settings, holder["slices"], path, scopes, models)
    return Steps(steps, settings.base or donor)


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
