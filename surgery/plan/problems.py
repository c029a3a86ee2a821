"""Collects what is wrong with a plan; the same complaint about many tensors is one finding."""

from __future__ import annotations

from dataclasses import dataclass, field

from surgery.errors import Finding, PlanError
from surgery.recipe.document import dotted
from surgery.recipe.model import Recipe


@dataclass(slots=True)
class Problems:
    """Findings so far, in the order in which they were made."""

    recipe: Recipe
    findings: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    _repeats: dict[tuple[tuple[str | int, ...], str], tuple[int, int]] = field(default_factory=dict)

    def add(self, path: tuple[str | int, ...], what: str) -> None:
        """Note one thing that is wrong at a place of the recipe."""
        self.findings.append(self._finding(path, what))

    def warn(self, path: tuple[str | int, ...], what: str) -> None:
        """Note something to tell the user that does not stop the run."""
        self.warnings.append(self._finding(path, what))

    def add_tensor(self, path: tuple[str | int, ...], kind: str, what: str, tensor: str) -> None:
        """Note what is wrong with a tensor: the first of a kind is told in full, the others are counted."""
        key = (path, kind)
        index, count = self._repeats.get(key, (len(self.findings), 0))
        if count == 0:
            self.findings.append(self._finding(path, what))
        self._repeats[key] = (index, count + 1)

    def raise_any(self) -> None:
        """Raise PlanError with all findings, if there are any."""
        for (path, _), (index, count) in self._repeats.items():
            if count > 1:
                what = self.findings[index].what
                head, _, advice = what.partition("; ")
                tail = f"; {advice}" if advice else ""
                self.findings[index] = self._finding(
                    path, f"{head} (and {count - 1} more such tensors){tail}"
                )
        self._repeats.clear()
        if self.findings:
            raise PlanError(self.findings)

    def _finding(self, path: tuple[str | int, ...], what: str) -> Finding:
        return Finding(what, self.recipe.where(path), dotted(path))
