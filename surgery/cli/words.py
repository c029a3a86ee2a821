"""Numbers in words, the same in all commands."""

from __future__ import annotations

from collections.abc import Iterable


def count(number: int, noun: str) -> str:
    """Return a number and its noun: `1 tensor`, `1,024 tensors`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def millions(number: int) -> str:
    """Return a number of parameters as people say it: `8.03 B`, `134.5 M`."""
    for power, unit in ((12, "T"), (9, "B"), (6, "M"), (3, "K")):
        if number >= 10**power:
            return f"{number / 10**power:.4g} {unit}"
    return str(number)


def duration(seconds: float) -> str:
    """Return a time as people say it: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def ranges(numbers: Iterable[int]) -> str:
    """Return indices as ranges: `0-3, 5`."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
