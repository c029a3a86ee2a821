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
    """Return a time roughly, as people say it: `less than 1 s`, `about 12 s`, `about 3 min`, `about 2 h 5 min`."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 90:
        return f"about {round(seconds)} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 60 else f"about {minutes // 60} h {minutes % 60} min"


def ranges(numbers: Iterable[int]) -> str:
    """Return indices as ranges: `0-3, 5`."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
