"""What ops noted about tensors, taken together: by step and name, from the least number to the largest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from surgery.notes import Noted


@dataclass(frozen=True, slots=True)
class Row:
    """The numbers of one name that a step noted: by the tensor that it worked on, and where they are in the output."""

    step: str
    name: str
    numbers: Mapping[str, float]
    outputs: Mapping[str, str]

    @property
    def least(self) -> str:
        """Return the first tensor with the smallest number."""
        return min(self.numbers, key=lambda tensor: self.numbers[tensor])

    @property
    def most(self) -> str:
        """Return the first tensor with the largest number."""
        return max(self.numbers, key=lambda tensor: self.numbers[tensor])

    @property
    def mean(self) -> float:
        """Return the mean."""
        return fmean(self.numbers.values())


def rows_of(notes: Mapping[str, Iterable[Noted]]) -> list[Row]:
    """Return a row for each step and name, in the order of the output's tensors.

    What became several tensors of an output, such as two factors, counts once.
    """
    found: dict[tuple[str, str], tuple[dict[str, float], dict[str, str]]] = {}
    for output, several in notes.items():
        for noted in several:
            for name, number in noted.numbers.items():
                numbers, outputs = found.setdefault((noted.step, name), ({}, {}))
                numbers.setdefault(noted.tensor, number)
                outputs.setdefault(noted.tensor, output)
    return [Row(step, name, *both) for (step, name), both in found.items()]


def notes_record(notes: Iterable[Noted]) -> list[dict[str, Any]]:
    """Return notes as report.json holds them."""
    return [noted._asdict() for noted in notes]


def recorded(report: Mapping[str, Any]) -> dict[str, list[Noted]]:
    """Return the notes of a report.json by the output's tensor; none without one."""
    tensors = report.get("tensors", ())
    return {tensor["name"]: [Noted(**noted) for noted in tensor.get("notes", ())] for tensor in tensors}
