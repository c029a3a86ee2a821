"""Documents of mergekit's that are no merges: known, refused, with what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_OTHERS: Final = (
    (
        ("genome", "tasks"),
        "a document for mergekit-evolve, which is not read; write a recipe with holes for `surgery search`",
    ),
)


def other_kind(data: Mapping[str, Any]) -> str | None:
    """Return what to say of a document of another kind than a merge; None for merges and for strangers' documents."""
    return next((what for keys, what in _OTHERS if all(key in data for key in keys)), None)
