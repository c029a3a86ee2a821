"""The space of a recipe with holes: its genes, and the plain recipe that values for them give."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from surgery.recipe.document import Document
from surgery.search.holes import Hole, read_holes
from surgery.trials import Gene, Value

SEARCH_KEY: Final = "search"

Genome = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """The holes of a document. A genome is a value for each gene, hole by hole in the order of the text."""

    document: Document
    holes: tuple[Hole, ...]

    @property
    def genes(self) -> tuple[Gene, ...]:
        """Return the genes of all holes."""
        return tuple(gene for hole in self.holes for gene in hole.genes)

    @property
    def centre(self) -> Genome:
        """Return the genome in the middle of every range; of choices the middle one."""
        return tuple(gene.at(0.5) for gene in self.genes)

    def corners(self) -> Iterator[Genome]:
        """Yield genomes that together hold both ends of every range and each of the choices."""
        most = max((len(gene.choices) for gene in self.genes), default=0)
        for i in range(max(most, 2)):
            yield tuple(_ith(gene, i) for gene in self.genes)

    def filled(self, genome: Sequence[Value]) -> Document:
        """Return the document of the plain recipe: holes filled, where everything stands unchanged."""
        data: dict[str, Any] = copy.deepcopy(self.document.data)
        left = list(genome)
        for hole in self.holes:
            mine, left = left[: len(hole.genes)], left[len(hole.genes) :]
            for path in hole.paths:
                _put(data, path, hole.value(mine))
        return replace(self.document, data=data, holes=())

    def describe(self) -> str:
        """Return the space's size in words: `12 numbers`, `3 numbers and 1 choice of 4`."""
        genes = self.genes
        numbers = sum(not gene.choices for gene in genes)
        counts = [len(gene.choices) for gene in genes if gene.choices]
        parts = [f"{numbers} number{'s' if numbers != 1 else ''}"] if numbers else []
        for size in sorted(set(counts)):
            times = counts.count(size)
            parts.append(f"{times} choice{'s' if times != 1 else ''} of {size}")
        return " and ".join(parts)


def space_of(document: Document) -> Space:
    """Return a document's space. Raises RecipeError with everything that is wrong in its holes."""
    return Space(document, tuple(read_holes(document)))


def _ith(gene: Gene, i: int) -> Value:
    if gene.choices:
        return gene.choices[min(i, len(gene.choices) - 1)]
    return gene.low if i == 0 else gene.high


def _put(data: Any, path: Sequence[str | int], value: Any) -> None:
    for part in path[:-1]:
        data = data[part]
    data[path[-1]] = value
