"""A text read as plain data, which knows where everything in it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from surgery.errors import Finding

KeyPath = tuple[str | int, ...]  # keys of mappings, indices of lists, from the root to a value

MOST: Final = 100  # problems of one kind that are reported: looking for what was meant takes time

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a text, both counted from 1; the column in characters."""

    line: int
    col: int

    def __str__(self) -> str:
        return f"{self.line}:{self.col}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the value at a path, or with its key."""

    path: KeyPath
    what: str
    key: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data, and where each value (`positions`) and each key (`keys`) stands in the text.

    What an alias repeats stands where its anchor is. `foreign`: a plugin made the data of another tool's text, and
    positions are those of what it made each value from.
    `advice` is what that text's tool says to do, by what is wrong.
    `holes` are the paths at which `${search: ...}` is written; the data there is the mapping within the braces.
    """

    file: str
    text: str
    data: Any
    positions: Mapping[KeyPath, Position] = field(default_factory=dict, repr=False)
    keys: Mapping[KeyPath, Position] = field(default_factory=dict, repr=False)
    holes: tuple[KeyPath, ...] = ()
    foreign: bool = False
    advice: Mapping[str, str] = field(default_factory=dict, repr=False)

    def position(self, path: KeyPath, *, key: bool = False) -> Position | None:
        """Return where the value (or its key) at `path` stands, or else what holds it."""
        first, second = (self.keys, self.positions) if key else (self.positions, self.keys)
        for length in range(len(path), -1, -1):
            found = first.get(path[:length]) or second.get(path[:length])
            if found:
                return found
        return None

    def where(self, path: KeyPath, *, key: bool = False) -> str:
        """Return `file:line:col` of `position`; the file alone if it is not known."""
        found = self.position(path, key=key)
        return f"{self.file}:{found}" if found else self.file

    def finding(self, problem: Problem) -> Finding:
        """Return a problem with its place."""
        return Finding(problem.what, self.where(problem.path, key=problem.key), dotted(problem.path))

    def findings(self, problems: Iterable[Problem]) -> list[Finding]:
        """Return the problems with their places, in the order of the text."""
        start = Position(0, 0)
        ordered = sorted(problems, key=lambda problem: self.position(problem.path, key=problem.key) or start)
        return list(dict.fromkeys(self.finding(problem) for problem in ordered))


def dotted(path: KeyPath) -> str:
    """Return a path as people read it: `steps.mix.weight[1]`, `keep["layers[0:4].mlp"]`."""
    parts = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            parts.append(f".{clipped(part)}" if _PLAIN.fullmatch(part) else f'["{clipped(part)}"]')
    return "".join(parts).removeprefix(".")


def shown(value: Any) -> str:
    """Return what a user wrote, for an error message: short, on one line, in backticks if it is a scalar."""
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower()}`".replace("none", "null")
    return f"`{clipped(str(value))}`" if value != "" else "empty text"


def clipped(text: str, limit: int = 60) -> str:
    """Return text on one line of at most `limit` characters, without what a terminal would obey."""
    text = "".join(c if c.isprintable() else " " for c in text[: 2 * limit])
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
