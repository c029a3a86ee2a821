"""Modules: the parts of a model of several (a language model and a vision tower, an encoder and a decoder).

Each is merged by a step of its own, and the last step takes every tensor from the step of its module. mergekit tells
modules by lists of names; here each is a pattern that the names of all the model types match which have the module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from surgery.errors import did_you_mean
from surgery.recipe.document import KeyPath, clipped
from surgery_mergekit._reading import Reading
from surgery_mergekit._references import Models, Reference
from surgery_mergekit._settings import Settings
from surgery_mergekit._step import Made, Scope, scope_of

ASSEMBLE: Final = "merge.assemble"

_MERGER: Final = "merger|deepstack_merger_list"
_TOWER: Final = rf"re:(?:^|\.)(?:vision_tower|vision_model|visual)\.(?!{_MERGER})"
# Module -> which tensors are its own.
PLACES: Final[Mapping[str, str]] = {
    "text_decoder": r"re:^(?!.*(?:vision_tower|vision_model|visual|multi_modal_projector)\.)",
    "vision_tower": _TOWER,
    "vision_model": _TOWER,
    "multi_modal_projector": rf"re:(?:^|\.)(?:multi_modal_projector|visual\.(?:{_MERGER}))\.",
    "encoder": r"re:^(?:model\.)?encoder\.",
    "decoder": r"re:^(?:model\.)?decoder\.",
    "shared": r"re:^(?:shared|lm_head)\.",
}
# Beside a language model nothing has layers here, so that a gradient would stay where it begins.
_FLAT: Final = ("vision_tower", "vision_model", "multi_modal_projector")


@dataclass(slots=True)
class Steps:
    """The steps of a document by name, in order; the last is its result. `donor` gives config.json and tokenizer."""

    made: dict[str, Made] = field(default_factory=dict)
    donor: Reference | None = None


# Reads the models below a path, within scopes: the steps that merge them under the name of the settings.
Merge = Callable[[Settings, Mapping[str, Any], KeyPath, list[Scope]], Steps]


def assembled(
    reading: Reading, settings: Settings, modules: Mapping[str, Any], top: Scope, models: Models, merge: Merge
) -> Steps:
    """Return the steps that merge modules and put them together. Modules that are not named are the donor's."""
    steps = Steps(donor=settings.base)
    parts: dict[str, str] = {}
    for module, raw in modules.items():
        path = ("modules", module)
        if module not in PLACES:
            reading.refuse(
                path, f"unknown module `{clipped(module)}`{did_you_mean(module, PLACES)}", key=True
            )
            continue
        own = replace(settings, name=models.free(f"{settings.name}-{module}"))
        holder = reading.mapping(raw, path, ("slices", "models", "parameters"))
        if not _only_models(reading, holder, path):
            continue
        found = merge(own, holder, (*path, "models"), [scope_of(reading, holder, path, settings), top])
        if module in _FLAT and any(has_ramp(made.step) for made in found.made.values()):
            what = f"a gradient in `{module}`, which has no layers here"
            reading.refuse(path, f"{what}; write one number, and filters for its parts", key=True)
        steps.made |= found.made
        steps.donor = steps.donor or found.donor
        parts[own.name] = PLACES[module]
    if reading.problems or steps.donor is None:
        return Steps()
    steps.made[settings.name] = _together(reading, settings, steps.donor, parts, models)
    return steps


def _only_models(reading: Reading, holder: Mapping[str, Any], path: KeyPath) -> bool:
    if holder.get("slices") is not None:
        what = "slices of one module are not read"
        reading.refuse(
            (*path, "slices"), f"{what}; write `slices` without `modules`, or `stitch.layers`", key=True
        )
    elif holder.get("models") is None:
        reading.refuse(path, "must have `models`, got none", key=True)
    return holder.get("slices") is None and holder.get("models") is not None


def _together(
    reading: Reading, settings: Settings, donor: Reference, parts: Mapping[str, str], models: Models
) -> Made:
    """Return the step that takes each tensor from the step of its module, what is left from the donor."""
    places = dict.fromkeys(parts.values())
    weights: dict[str, dict[str, Any]] = {
        models.name(donor, settings.dtype): {**dict.fromkeys(places, 0), "default": 1}
    }
    weights |= {name: {place: 1, "default": 0} for name, place in parts.items()}
    made = Made({"op": ASSEMBLE, "models": {name: {"weight": weight} for name, weight in weights.items()}})
    made.step["missing"] = "skip"
    if settings.vocabulary is None:
        made.step["tokenizer"] = "accept"
    made.places[()] = reading.place(("modules",))
    return made


def has_ramp(value: Any) -> bool:
    """Return whether numbers in a step change with depth."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return bool(value) and all(isinstance(item, int | float) for item in value)
    return isinstance(value, Mapping) and any(has_ramp(item) for item in value.values())
