"""A long text cut into windows that a model can read, so that every token but the first is predicted once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens `start` to `stop`; the last `scored` of them are predicted from those before."""

    start: int
    stop: int
    scored: int


def windows(count: int, length: int, stride: int) -> Iterator[Window]:
    """Yield the windows over `count` tokens.

    The first scores up to length - 1 tokens, each later one up to `stride` with at least length - stride tokens before.
    """
    done = 1  # nothing precedes the first token
    while done < count:
        stop = min(done + (length - 1 if done == 1 else stride), count)
        yield Window(max(stop - length, 0), stop, stop - done)
        done = stop


def batches(found: Sequence[Window], most: int) -> Iterator[list[Window]]:
    """Yield windows in order, at most `most` at a time and only of one length and one number of scored tokens."""
    batch: list[Window] = []
    for window in found:
        like = batch and _shape(batch[0]) == _shape(window)
        if batch and (not like or len(batch) == most):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _shape(window: Window) -> tuple[int, int]:
    return window.stop - window.start, window.scored
