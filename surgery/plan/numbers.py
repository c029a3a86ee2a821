"""Parameters for one tensor: ramps and selector maps become the numbers that hold there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from surgery.errors import Finding
from surgery.ops import Params
from surgery.recipe.select import compile_selector, meant, overrun
from surgery.scalars import DEFAULT_SELECTOR, BySelector, Ramp, resolve
from surgery.tensors import TensorInfo

compiled = cache(compile_selector)


@dataclass(slots=True)
class Numbers:
    """Fills in one Params object tensor by tensor, and remembers which selectors matched anything."""

    params: Params
    where: str
    path: str
    head: int = 1  # where on a ramp those tensors stand that follow the layers
    schedules: dict[str, Any] = field(default_factory=dict)
    selectors: set[str] = field(default_factory=set)
    unused: set[str] = field(default_factory=set)
    unmatched: list[str] = field(default_factory=list)
    _made: dict[tuple[float, ...], Params] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in type(self.params).model_fields:
            value = getattr(self.params, name)
            if isinstance(value, Ramp | BySelector):
                self.schedules[name] = value
            if isinstance(value, BySelector):
                self.selectors |= {selector for selector, _ in value.cases if selector != DEFAULT_SELECTOR}
        self.unused = set(self.selectors)

    def at(self, tensor: TensorInfo) -> Params:
        """Return the parameters for a tensor; the same object for tensors with the same numbers."""
        if not self.schedules:
            return self.params

        def matches(selector: str) -> bool:
            hit = compiled(selector).matches(tensor)
            if hit:
                self.unused.discard(selector)
            return hit

        numbers = []
        for name, schedule in self.schedules.items():
            depth = tensor.depth if tensor.role.layer is not None else tensor.depth * self.head
            number = resolve(schedule, depth, matches)
            if number is None:
                self.unmatched.append(f"{name} for {tensor.name}")
                number = 0.0
            numbers.append(number)
        key = tuple(numbers)
        if key not in self._made:
            self._made[key] = self.params.model_copy(update=dict(zip(self.schedules, key, strict=True)))
        return self._made[key]

    def idle(self, infos: Collection[TensorInfo]) -> list[Finding]:
        """Return the selectors that matched no tensor of these, or none that an earlier one had left."""
        what = "selector `{}` matches no tensor; {}"
        return [
            Finding(what.format(selector, meant(selector, infos)), self.where, self.path)
            for selector in sorted(self.unused)
        ]

    def overrun(self, infos: Collection[TensorInfo]) -> list[Finding]:
        """Return the selectors that match some of these tensors and name layers behind the last."""
        found = {selector: overrun(selector, infos) for selector in sorted(self.selectors - self.unused)}
        return [
            Finding(f"selector `{selector}` goes past the last layer; {past}", self.where, self.path)
            for selector, past in found.items()
            if past
        ]

    def missing(self) -> list[Finding]:
        """Return the tensors for which no case of a map gives a number."""
        if not self.unmatched:
            return []
        first, more = self.unmatched[0], len(self.unmatched) - 1
        tail = f" and {more} more tensors" if more else ""
        return [Finding(f"no case gives {first}{tail}; add `{DEFAULT_SELECTOR}:`", self.where, self.path)]
