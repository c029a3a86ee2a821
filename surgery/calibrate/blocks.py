"""Running a model block by block, as the model itself does.

The model's own `forward` is run once with blocks that only note how they are called: what they are given besides the
hidden states (masks, position embeddings) is the same for every sample, for all have one length and no padding. It
must also hand each block just what the one before gave; a model that does otherwise is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from surgery.calibrate.skeleton import Skeleton

Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Call:
    """What a block is given besides the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Stop(Exception):
    """The model came to where it was to stop, with these hidden states."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class Blocks:
    """The blocks of a skeleton and how its model calls them."""

    def __init__(self, skeleton: Skeleton) -> None:
        self._skeleton = skeleton
        self._mine = threading.local()  # the hidden states that stand in for this thread's sample
        self.calls: list[Call] = []
        self.wraps = False  # whether a block returns a tuple

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return what the first block is given for a sample: [length] ids to [length, hidden]; within `embedding`."""
        try:
            self._run(ids)
        except _Stop as stop:
            return stop.hidden[0]
        raise AssertionError("`_run` ends with an exception")

    @contextmanager
    def embedding(self) -> Iterator[None]:
        """Let the model stop at its first block; to be held around `embed`."""

        def first(*args: Any, **kwargs: Any) -> Any:
            raise _Stop(_apart(args, kwargs)[0])

        with self._standing_in({0: first}):
            yield

    def learn(self, ids: torch.Tensor) -> None:
        """Note how the model calls its blocks. Raises PlanError if it does not hand on what they return."""
        for self.wraps in (False, True):
            calls = self._calls(ids)
            if calls is not None:
                self.calls = calls
                return
        raise self._skeleton.refusal("does not hand on from block to block what they return")

    def require_same(self, ids: torch.Tensor) -> None:
        """Refuse a model that gives its blocks something else for another sample."""
        for index, (mine, other) in enumerate(zip(self.calls, self._calls(ids) or (), strict=True)):
            if not _same((mine.args, mine.kwargs), (other.args, other.kwargs)):
                raise self._skeleton.refusal(f"gives block {index} more than hidden states of the text")

    def run(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """Return what a block makes of a sample's hidden states, [length, hidden]."""
        call = self.calls[index]
        made = self._skeleton.blocks[index](hidden[None], *call.args, **call.kwargs)
        out: torch.Tensor = made[0] if isinstance(made, tuple) else made
        return out[0]

    def finish(self, ids: torch.Tensor, hidden: torch.Tensor) -> Any:
        """Return the model's own result with a sample's hidden states behind the last block."""
        self._mine.hidden = hidden[None]
        return self._skeleton.model(input_ids=ids[None], use_cache=False)

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Let no block do anything; to be held around `finish`."""

        def passed(*args: Any, **kwargs: Any) -> Any:
            return self._wrapped(self._mine.hidden)

        with self._standing_in(dict.fromkeys(range(len(self._skeleton.blocks)), passed)):
            yield

    def _calls(self, ids: torch.Tensor) -> list[Call] | None:
        """Return how each block is called; None if one is given what the last did not return."""
        calls: list[Call] = []
        handed: list[torch.Tensor] = []
        last = len(self._skeleton.blocks) - 1

        def note(*args: Any, **kwargs: Any) -> Any:
            hidden, call = _apart(args, kwargs)
            if handed and hidden is not handed[0]:
                raise _Unlike
            handed[:] = [hidden]
            calls.append(call)
            if len(calls) > last:
                raise _Stop(hidden)
            return self._wrapped(hidden)

        with self._standing_in(dict.fromkeys(range(last + 1), note)):
            try:
                self._run(ids)
            except _Unlike:
                return None
            except _Stop:
                pass
        return calls

    def _run(self, ids: torch.Tensor) -> None:
        """Run the model until a block stops it by raising."""
        try:
            self._skeleton.model(input_ids=ids[None], use_cache=False)
        except (_Stop, _Unlike):
            raise
        except Exception as error:  # whatever it does with a block that does nothing
            if self.wraps:
                raise self._skeleton.refusal(
                    f"fails between blocks: {str(error).partition(chr(10))[0]}"
                ) from error
            raise _Unlike from error
        raise self._skeleton.refusal("does not run all of its blocks")

    def _wrapped(self, hidden: torch.Tensor) -> Any:
        return (hidden,) if self.wraps else hidden

    @contextmanager
    def _standing_in(self, forwards: dict[int, Forward]) -> Iterator[None]:
        """Replace what some blocks do."""
        for index, forward in forwards.items():
            self._skeleton.blocks[index].forward = forward
        try:
            yield
        finally:
            for index in forwards:
                del self._skeleton.blocks[index].forward


class _Unlike(Exception):
    """A block was given something else than what the one before returned."""


def _apart(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Tensor, Call]:
    """Return the hidden states that a block is given, and the rest."""
    if args:
        return args[0], Call(args[1:], kwargs)
    rest = dict(kwargs)
    return rest.pop("hidden_states"), Call((), rest)


def _same(a: Any, b: Any) -> bool:
    """Return whether two structures are equal, tensors to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and (a is b or not isinstance(a, int | float | str | bool) or a == b)
