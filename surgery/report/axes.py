"""Axes of a chart: a scale from numbers to pixels, ticks at round numbers, and text that is safe in a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

CHARACTER: Final = 6.6  # pixels of a character at 12 px; text has no other measure here
_TINY: Final = 1e-290  # what is smaller counts as nothing: its powers of ten cannot be told apart
_ROUND: Final = (1.0, 2.0, 5.0, 10.0)


def safe(text: str) -> str:
    """Return text for a page: markup is escaped, and what is not printable (controls, bidi marks) is replaced."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def clip(text: str, limit: int) -> str:
    """Return at most `limit` characters of text, its end kept: the ends of tensor names tell them apart."""
    return text if len(text) <= limit else "…" + text[len(text) - limit + 1 :]


def number(value: float) -> str:
    """Return a number as people read it: four significant digits, thousands separated, powers of ten when far."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size and not 1e-4 <= size < 1e15:
        return f"{value:.3e}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps `low`..`high` to pixels `start`..`end`, by the logarithm when `log`."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, value = (
            (math.log10(x) for x in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def label(self, tick: float) -> str:
        """Return a tick's label, with as many digits as its neighbours need."""
        if self.log or len(self.ticks) < 2:
            return _power(tick)
        step = self.ticks[1] - self.ticks[0]
        if max(abs(self.low), abs(self.high)) >= 1e6 or step < 1e-4:
            return _power(tick)
        return f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def linear(values: Sequence[float], start: float, end: float, *, zero: bool = False, count: int = 5) -> Scale:
    """Return a scale whose ends are round numbers around the values, and around zero when asked."""
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if not high - low > max(abs(high) * 1e-12, _TINY):  # all the same: a scale needs some room
        room = abs(high) if abs(high) > _TINY else 1.0
        low, high = (0.0 if zero and low == 0 else low - room / 2), high + room / 2
    step = _step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(i * step for i in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def logarithmic(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a logarithmic scale around positive values: ticks at powers of ten, at 1, 2, 5 when there are few."""
    first = math.floor(math.log10(max(min(values), _TINY)) + 1e-9)
    last = math.ceil(math.log10(max(values)) - 1e-9)
    last = max(last, first + 1)
    every = math.ceil((last - first) / 6)
    last = first + every * math.ceil((last - first) / every)
    factors = (1.0, 2.0, 5.0) if last - first == 1 else (1.0,)
    ticks = [factor * 10.0**power for power in range(first, last, every) for factor in factors]
    return Scale(10.0**first, 10.0**last, start, end, (*ticks, 10.0**last), log=True)


def _step(rough: float) -> float:
    """Return the round number (1, 2 or 5 times a power of ten) that is next above `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in _ROUND if factor * power >= rough * (1 - 1e-9))


def _power(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.10g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"
