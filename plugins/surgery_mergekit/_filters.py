"""A filter becomes selectors. In mergekit it is any text that stands somewhere in the tensor's name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from surgery_mergekit._reading import Reading
from surgery_mergekit._values import Case

Relabel = Callable[[str], list[str] | None]

_SAFE: Final = re.compile(r"[A-Za-z0-9_.\-]+")
_LAYER: Final = re.compile(r"(?:^|.*\.)(?:layers|layer|h|blocks|block)\.(?P<index>\d+)(?P<rest>\..*)?")


def selector(text: str) -> str:
    """Return the selector of all names that contain a text."""
    return f"*{text}*" if _SAFE.fullmatch(text) else f"re:{re.escape(text)}"


@dataclass(frozen=True, slots=True)
class Slice:
    """Where the layers of a slice stand: mergekit's filters see `start` + i, steps see i, for i below `count`."""

    start: int
    count: int

    def selectors(self, text: str) -> list[str]:
        """Return the selectors, within the slice, of all names that contain a text in the numbering outside it.

        `layers.1` is in the names of layers 1 and 10 to 19; one that names no layer of the slice has no selector.
        """
        found = _LAYER.fullmatch(text)
        if found is None:
            return [selector(text)]
        begin = found.start("index")
        wanted, whole = found["index"], found["rest"] is not None
        made = []
        for i in range(self.count):
            outside = str(self.start + i)
            if outside == wanted or (not whole and outside.startswith(wanted)):
                made.append(selector(f"{text[:begin]}{i}{found['rest'] or '.'}"))
        return made


def as_map(reading: Reading, cases: Iterable[Case], where: Slice | None) -> Any:
    """Return the number, ramp or map of selectors that cases say, the first that fits a tensor winning.

    A case that an earlier one leaves nothing is dropped: a filter that contains the text of an earlier one.
    """
    made: dict[str, Any] = {}
    before: list[str] = []
    for case in cases:
        if case.filter is None:
            return {**made, "default": case.value} if made else case.value
        if any(text in case.filter for text in before):
            reading.warn(
                case.path, f"filter `{case.filter}` is never reached: an earlier one takes its tensors"
            )
            continue
        before.append(case.filter)
        for text in where.selectors(case.filter) if where else [selector(case.filter)]:
            made.setdefault(text, case.value)
    return made
