"""What a plugin makes of another tool's recipe: one of ours, where its parts came from, and what to say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surgery.errors import Finding
from surgery.recipe.document import KeyPath, Position


@dataclass(frozen=True, slots=True)
class Translated:
    """Another tool's recipe in our format.

    data      the recipe as plain data
    places    where in the text it stands what made the value at a path, so that findings name a line
    warnings  what the tool would have ignored, or does otherwise, and the user should know of in every run
    report    what was decided in translating, a sentence each: defaults that were written out, other numbers
    comments  what `surgery convert` writes beside the value at a path
    advice    what to do in the tool's own words, where a later finding would name a step of ours: by what is wrong,
              `vocabulary` (models whose vocabularies differ in size)
    """

    data: dict[str, Any]
    places: Mapping[KeyPath, Position] = field(default_factory=dict)
    warnings: tuple[Finding, ...] = ()
    report: tuple[str, ...] = ()
    comments: Mapping[KeyPath, str] = field(default_factory=dict)
    advice: Mapping[str, str] = field(default_factory=dict)
