"""Numbers that ops note about what they did to a tensor: journaled, and told in report.json. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from surgery.ops import Chunk

_NAME: Final = re.compile("[A-Za-z_]+")
_SHOWN: Final = 40  # characters of what is refused


class Noted(NamedTuple):
    """What an op noted in one call: the step, the tensor that it worked on, the numbers by name."""

    step: str
    tensor: str
    numbers: Mapping[str, float]


def take_note(numbers: dict[str, float], name: str, number: Any) -> str | None:
    """Add a number to those that are noted already; return what is wrong with it, or None.

    Numbers are finite; integers, floats, or tensors of one.
    """
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        return f"notes a number as `{str(name)[:_SHOWN]}`, a name has letters and underscores only,"
    if name in numbers:
        return f"notes `{name}` twice"
    value = _finite(number)
    if value is None:
        return f"notes {str(number)[:_SHOWN]} as `{name}`, not a finite number,"
    numbers[name] = value
    return None


def note_energy(x: Chunk, kept: float, whole: float) -> None:
    """Note as `energy` the share of a sum of squares that is kept; nothing of no sum, or of one beyond float64."""
    if 0 < whole < math.inf:
        x.note("energy", min(kept / whole, 1.0))  # the two are summed in different orders


def _finite(number: Any) -> float | None:
    with suppress(TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: a tensor of several
        value = number.item() if hasattr(number, "item") else number
        if type(value) in (int, float) and math.isfinite(value):
            return value  # type: ignore[no-any-return]
    return None
