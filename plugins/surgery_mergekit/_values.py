"""Values as mergekit writes them: scalars, gradients, and lists of filters with either.

weight: 0.5
weight: [0, 0.5, 1]                                  # a gradient over depth: here a ramp
weight: [{filter: mlp, value: 0.5}, {value: 1}]      # the first filter in the tensor's name wins
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from surgery.recipe.document import KeyPath, shown
from surgery_mergekit._methods import Kind
from surgery_mergekit._reading import Reading

_SWITCHES: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SAID: Final = {
    "number": "a number, a gradient or filters",
    "switch": "`true` or `false`",
    "count": "a whole number",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A value and the text that a tensor's name must contain; None: any tensor."""

    filter: str | None
    value: Any
    path: KeyPath


def cases_of(reading: Reading, raw: Any, path: KeyPath, kind: Kind) -> list[Case]:
    """Return what a value says, case by case; [] for what is not set. What is wrong is refused, and is None."""
    if isinstance(raw, dict):
        return _filtered(reading, raw, path, kind)
    if isinstance(raw, list) and any(isinstance(item, dict) for item in raw):
        if not all(isinstance(item, dict) for item in raw):
            reading.refuse(path, "a list of numbers and filters mixed; write one or the other")
            return [Case(None, None, path)]
        entries = (_filtered(reading, item, (*path, i), kind) for i, item in enumerate(raw))
        return [case for entry in entries for case in entry]
    if raw is None or raw == []:
        return []
    return [Case(None, _value(reading, raw, path, kind), path)]


def _filtered(reading: Reading, entry: dict[str, Any], path: KeyPath, kind: Kind) -> list[Case]:
    reading.mapping(entry, path, ("filter", "value"))
    if "value" not in entry:
        reading.refuse(path, "a filter without `value`; add it")
        return [Case(None, None, path)]
    text = entry.get("filter")
    if text is not None and not isinstance(text, str):
        text = str(text)
    value = _value(reading, entry["value"], (*path, "value"), kind)
    return [Case(None if text in (None, "*", "") else text, value, path)]


def _value(reading: Reading, raw: Any, path: KeyPath, kind: Kind) -> Any:
    """Return a scalar, or the numbers of a gradient."""
    if not isinstance(raw, list):
        return scalar(reading, raw, path, kind)
    if kind != "number":
        what = f"must be {_SAID[kind]}, got a gradient; our op takes one value for all tensors"
        reading.refuse(path, what)
        return None
    if not raw:
        reading.refuse(path, "an empty gradient; write at least one number")
    elif reading.raw:
        reading.warn(path, "a gradient over layers, which files have none of: its first number is used")
        return scalar(reading, raw[0], (*path, 0), kind)
    return [scalar(reading, item, (*path, i), kind) for i, item in enumerate(raw)]


def scalar(reading: Reading, raw: Any, path: KeyPath, kind: Kind) -> Any:
    """Return a number or a switch; numbers may be written as text, as YAML 1.1 takes `1e-5` for text."""
    made = {"number": _number, "switch": _switch, "count": _count}[kind](raw)
    if made is None:
        reading.refuse(path, f"must be {_SAID[kind]}, got {shown(raw)}")
    return made


def _number(raw: Any) -> int | float | None:
    if isinstance(raw, bool):
        return float(raw)
    try:
        value = float(raw) if isinstance(raw, str) else raw
    except ValueError:
        return None
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _switch(raw: Any) -> bool | None:
    if isinstance(raw, str):
        return _SWITCHES.get(raw.lower())
    return bool(raw) if isinstance(raw, bool | int | float) else None


def _count(raw: Any) -> int | None:
    value = _number(raw)
    return int(value) if value is not None and value == int(value) else None
