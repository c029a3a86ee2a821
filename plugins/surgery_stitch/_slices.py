"""How users write layers: `a[0:3]`, `a[3]`, `2:5`. Half open, counted from 0, as in Python."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from surgery.errors import PlanError

_SLICE: Final = re.compile(r"^\s*(?P<model>[^\[\]]+?)\s*\[\s*(?P<layers>[^\[\]]*?)\s*\]\s*$")
_RANGE: Final = re.compile(r"^(?P<start>\d*)\s*:\s*(?P<stop>\d*)$")


@dataclass(frozen=True, slots=True)
class Range:
    """Layers `start` to `stop`, half open; None stands for the first or the last."""

    start: int | None
    stop: int | None
    text: str

    def within(self, layers: int, model: str) -> range:
        """Return the layers of a model that has `layers`; raise PlanError for those that it has not."""
        start, stop = self.start or 0, layers if self.stop is None else self.stop
        if start < stop <= layers:
            return range(start, stop)
        what = "names no layer" if start >= stop and stop <= layers else "reaches past the last layer"
        raise PlanError(
            f"`{self.text}`: {what}, `{model}` has {layers} layers (0 to {layers - 1}); write others"
        )


@dataclass(frozen=True, slots=True)
class Slice:
    """Some layers of one model."""

    model: str
    layers: Range


def parse_range(text: str | int) -> Range:
    """Return the range that `2:5`, `:5`, `2:` or `3` means; raise ValueError for anything else."""
    written = str(text).strip()
    if written.isdecimal():
        return Range(int(written), int(written) + 1, written)
    found = _RANGE.match(written)
    if found is None:
        raise ValueError(f"`{text}` is no range of layers; write `2:5` for layers 2, 3 and 4, or `3`")
    start, stop = (int(end) if end else None for end in found.group("start", "stop"))
    return Range(start, stop, written)


def parse_slice(text: str) -> Slice:
    """Return the slice that `a[0:3]` or `a[3]` means; raise ValueError for anything else."""
    found = _SLICE.match(text)
    if found is None:
        raise ValueError(f"`{text}` is no slice of a model; write `a[0:3]` for layers 0, 1 and 2, or `a[3]`")
    model, layers = found.group("model", "layers")
    try:
        inside = parse_range(layers)
    except ValueError:
        raise ValueError(f"`{text}` is no slice of a model; write `{model}[0:3]` or `{model}[3]`") from None
    return Slice(model, Range(inside.start, inside.stop, text.strip()))
