"""JSON of weight files: what readers could understand in two ways is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from surgery.errors import CheckpointError


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in `data`.

    Refuses other values, duplicate keys, NaN, and text that is not UTF-8.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not UTF-8 at byte {error.start}; the file is damaged") from None
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{where} is not valid JSON: {error}; the file is damaged") from None
    except (_Refused, ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits
        raise CheckpointError(
            f"{where} is not acceptable JSON: {error}; the file is damaged or hostile"
        ) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must be a JSON object, got {json_type(value)}; the file is damaged")
    return value


def json_type(value: Any) -> str:
    """Return what JSON calls the type of a parsed value."""
    if isinstance(value, bool):
        return "a boolean"
    names = {dict: "an object", list: "an array", str: "a string", int: "an integer", float: "a fraction"}
    return names.get(type(value), "null")


class _Refused(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _Refused(f"key `{twice}` appears twice")
    return found


def _no_constant(word: str) -> None:
    raise _Refused(f"{word} is no JSON number")
