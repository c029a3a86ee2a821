"""Where an output goes: a folder, or a place that a plugin publishes to, and then a folder in which it is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.base_publisher import Destination, Publisher
from surgery.errors import did_you_mean
from surgery.recipe.model import Output as RecipeOutput
from surgery.recipe.model import Recipe

# A single letter before the colon is a drive, not a scheme.
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Target:
    """A place that an output is published to; `keep`: its folder stays when it is."""

    destination: Destination
    rest: str
    private: bool = False
    keep: bool = False

    def __str__(self) -> str:
        return f"{self.destination.name}:{self.rest}"

    def publisher(self) -> Publisher:
        """Return what publishes there."""
        return self.destination.open(self.rest, self.private)


@dataclass(frozen=True, slots=True)
class Place:
    """The folder that an output is made in (None: not said), where it is published, and what is wrong with both."""

    folder: Path | None
    target: Target | None = None
    problems: tuple[tuple[str, str], ...] = ()  # key of the output, what is wrong


def place_of(
    recipe: Recipe, wanted: RecipeOutput, out: Path | None, destinations: Callable[[], Sequence[Destination]]
) -> Place:
    """Return where an output goes; `out`, from the command line, goes before its `to:`."""
    to = wanted.to if out is None else str(out)
    match = _SCHEME.fullmatch(to or "")
    if match is None:
        folder = None if to is None else out.absolute() if out else _under(recipe, to)
        return Place(folder, problems=_for_published_only(wanted) if out is None else ())
    known = {destination.name: destination for destination in destinations()}
    destination = known.get(match[1])
    if destination is None:
        what = f"no plugin publishes to `{match[1]}:`{did_you_mean(match[1], known)}"
        return Place(None, problems=(("to", what),))
    wrong = destination.check(match[2])
    if wrong:
        return Place(None, problems=(("to", wrong),))
    target = Target(destination, match[2], wanted.private, wanted.keep is not None)
    return Place(_under(recipe, wanted.keep or destination.folder(match[2])), target)


def _under(recipe: Recipe, folder: str) -> Path:
    """Return a folder as a path; relative ones are relative to the recipe's."""
    path = Path(folder).expanduser()
    return path if path.is_absolute() else recipe.folder / folder


def _for_published_only(wanted: RecipeOutput) -> tuple[tuple[str, str], ...]:
    what = "is for outputs that are published, such as `to: hub:org/name`; remove it"
    given = {"keep": wanted.keep is not None, "private": wanted.private}
    return tuple((key, what) for key, there in given.items() if there)
