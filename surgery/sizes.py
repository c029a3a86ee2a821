"""Byte sizes as people write them: `5GB`, `512MiB`, `1.5 GiB`, plain integers."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_UNITS: Final = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
}
_SIZE: Final = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)


def parse_size(size: str | int) -> int:
    """Return the bytes that `size` stands for: GB is 10^9, GiB is 2^30, case does not matter.

    Fractions of a byte are dropped. Raises ValueError for anything else, and for sizes below one byte.
    """
    match = None if isinstance(size, bool) else _SIZE.fullmatch(str(size))
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"`{size}` is not a size; write a number and a unit, such as 5GB, 512MiB or 1.5 GiB")
    count = int(Fraction(match[1]) * unit)
    if count < 1:
        raise ValueError(f"`{size}` is less than one byte; write a number and a unit, such as 5GB or 512MiB")
    return count
