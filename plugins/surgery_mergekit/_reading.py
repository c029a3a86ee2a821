"""One document on its way into a recipe: where things stand in it, and what there is to say about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgery.errors import Finding, did_you_mean
from surgery.recipe.document import Document, KeyPath, Position, Problem, clipped, shown


@dataclass(slots=True)
class Reading:
    """A document, the folder that its paths are relative to, the names of all documents, and what was found so far.

    `raw`: its models are files without layers.
    """

    document: Document
    folder: Path
    names: frozenset[str] = frozenset()
    raw: bool = False
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def refuse(self, path: KeyPath, what: str, *, key: bool = False) -> None:
        """Note something wrong with the value at a path, or with its key."""
        self.problems.append(Problem(path, what, key))

    def warn(self, path: KeyPath, what: str, *, key: bool = False) -> None:
        """Note something that the user should know of in every run."""
        self.warnings.append(Problem(path, what, key))

    def place(self, path: KeyPath) -> Position:
        """Return where the value at a path stands."""
        return self.document.position(path) or Position(1, 1)

    def found(self, which: Iterable[Problem]) -> list[Finding]:
        """Return problems or warnings with their places, in the order of the text."""
        return self.document.findings(which)

    def mapping(self, value: Any, path: KeyPath, known: Iterable[str]) -> Mapping[str, Any]:
        """Return a mapping whose keys are known; {} after refusing anything else. Unknown keys are refused."""
        if not isinstance(value, dict):
            self.refuse(path, f"must be a mapping, got {shown(value)}")
            return {}
        known = list(known)
        for key in value:
            if key not in known:
                self.refuse((*path, key), f"unknown key `{clipped(key)}`{did_you_mean(key, known)}", key=True)
        return value

    def listed(self, value: Any, path: KeyPath, of: str) -> list[Any]:
        """Return a list that is not empty; [] after refusing anything else."""
        if isinstance(value, list) and value:
            return value
        got = "an empty list" if value == [] else shown(value)
        self.refuse(path, f"must be a list of {of}, got {got}")
        return []
