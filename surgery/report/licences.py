"""The licences of the models that went into an output, as far as their cards tell, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.origin import files_of
from surgery.errors import RecipeError
from surgery.recipe.yaml import read_yaml

_LARGEST: Final = 1_000_000  # bytes of a card that are looked at
_KEYS: Final = ("license", "license_name", "license_link")


@dataclass(frozen=True, slots=True)
class Licence:
    """What a model's card says: the Hub's identifier, and name and link where that is `other`."""

    identifier: str
    name: str = ""
    link: str = ""

    def __str__(self) -> str:
        return self.name or self.identifier

    def front_matter(self) -> dict[str, str]:
        """Return it as a card states it."""
        values = (self.identifier, self.name, self.link)
        return {key: value for key, value in zip(_KEYS, values, strict=True) if value}


def licence_of(checkpoint: Checkpoint) -> Licence | None:
    """Return the licence that the README.md beside a model's weights states; None if nothing says.

    A model with an adapter folded in has the licence that both state.
    """
    found = {_stated(folder) for folder in {file.parent for file in files_of(checkpoint)}}
    return found.pop() if len(found) == 1 else None


def _stated(folder: Path) -> Licence | None:
    stated = front_matter(folder / "README.md")
    values = [stated.get(key) for key in _KEYS]
    identifier, name, link = (value.strip() if isinstance(value, str) else "" for value in values)
    return Licence(identifier, name, link) if identifier else None


def common(found: Mapping[str, Licence | None]) -> Licence | None:
    """Return the licence that all models have; None if they differ or one is not known."""
    licences = set(found.values())
    return licences.pop() if len(licences) == 1 else None


def front_matter(card: Path) -> Mapping[str, Any]:
    """Return the YAML between the first two lines `---` of a card; {} without, or if it is not a mapping."""
    try:
        with card.open("rb") as file:
            text = file.read(_LARGEST).decode("utf-8", "replace").replace("\r\n", "\n")
        opening, _, rest = text.lstrip("\ufeff").partition("\n")
        matter, mark, _ = rest.partition("\n---")
        if opening.strip() != "---" or not mark:
            return {}
        data = read_yaml(matter, str(card)).data
    except (OSError, RecipeError):
        return {}
    return data if isinstance(data, dict) else {}
