"""What pydantic found wrong, in our words and at the place that the user wrote.

pydantic says where as a tuple in which tags of unions stand between keys: `("weight", "ramp", 1)`. Walking
the data along it tells them apart: what is no key of the mapping at hand, and no index of the list, is a
tag.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from surgery.errors import did_you_mean
from surgery.recipe.document import MOST, KeyPath, Problem, shown

# pydantic's error types -> what the value must be; fields in braces come from the error's context
_WANTED: Final = {
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "`true` or `false`",
    "bool_parsing": "`true` or `false`",
    "string_type": "text",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text that matches `{pattern}`",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "`null`",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
}

# the branches of a scheduled number, see `surgery.scalars`
_BRANCHES: Final = {"number": "a number", "ramp": "a list of numbers", "cases": "a map from selectors"}


_NUMBER: Final = re.compile(r"-?\d+(?:\.\d*)?")


@dataclass(frozen=True, slots=True)
class _Error:
    """One of pydantic's errors. `wanted` completes "must be ..."; a `branch` is one type of several tried."""

    path: KeyPath
    wanted: tuple[str, ...] = ()
    what: str = ""
    key: bool = False
    branch: bool = False


def problems_of(
    error: ValidationError, data: Any, model: type[BaseModel], others: Mapping[str, str] | None = None
) -> list[Problem]:
    """Return pydantic's errors on `data` as problems at paths in `data`, one for each place.

    `others` are keys that stand beside the model's own and are known too; a text says why one is refused.
    """
    details = error.errors(include_url=False)[:MOST]
    errors = [_read(detail, data, model, others or {}) for detail in details]
    return [_problem(found, data) for found in _merged(errors)]


def _read(detail: ErrorDetails, data: Any, model: type[BaseModel], others: Mapping[str, str]) -> _Error:
    kind, context = detail["type"], detail.get("ctx", {})
    path, key, branch = _locate(data, detail["loc"])
    if kind == "extra_forbidden":
        return _Error(path, what=_unknown(path, model, others), key=True)
    if kind == "missing":
        last = detail["loc"][-1]
        if isinstance(last, int):
            return _Error(path, what=f"too short a list: item [{last}] is missing")
        return _Error(
            path, what=f"missing key `{last}`{_misspelled(last, _at(data, path), model, path)}", key=True
        )
    if kind in ("too_short", "too_long"):
        return _Error(path, what=_length(context))
    if kind == "union_tag_invalid":
        tags = str(context["expected_tags"]).replace("'", "").split(", ")
        return _Error(path, tuple(_BRANCHES.get(tag, f"`{tag}`") for tag in tags))
    if kind in _WANTED:
        wanted = _WANTED[kind].format_map(context).replace("'", "`")
        return _Error(path, (wanted,), key=key, branch=branch)
    if kind == "value_error":
        return _Error(path, what=str(context["error"]), key=key)
    message = detail["msg"]
    return _Error(path, what=f"{message[:1].lower()}{message[1:]}, got {shown(_at(data, path))}", key=key)


def _misspelled(key: str, written: Any, model: type[BaseModel], path: KeyPath) -> str:
    """Return a word on a key that may be the missing one, where unknown keys are not errors by themselves."""
    holder = _model_at(model, path)
    if holder.model_config.get("extra") != "allow" or not isinstance(written, dict):
        return ""
    others = [other for other in map(str, written) if other not in _names(holder)]
    near = difflib.get_close_matches(key, others, n=1)
    return f"; `{near[0]}` is written, is it this?" if near else ""


def _length(context: Mapping[str, Any]) -> str:
    bound, count = ("at least", "min_length") if "min_length" in context else ("at most", "max_length")
    entries = f"{context[count]} entr{'y' if context[count] == 1 else 'ies'}"
    return f"must have {bound} {entries}, got {context['actual_length']}"


def _locate(data: Any, loc: tuple[int | str, ...]) -> tuple[KeyPath, bool, bool]:
    """Return the path that pydantic's location names, whether it means the key, and whether a tag ends it."""
    path: list[int | str] = []
    tagged = False
    for part in loc:
        tagged = not _holds(data, part)
        if not tagged:
            path.append(part)
            data = data[part]
    key = loc[-1:] == ("[key]",)
    return tuple(path), key, tagged and not key


def _holds(data: Any, part: int | str) -> bool:
    if isinstance(part, str):
        return isinstance(data, dict) and part in data
    return isinstance(data, list) and part < len(data)


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data[part]
    return data


def _unknown(path: KeyPath, model: type[BaseModel], others: Mapping[str, str]) -> str:
    """Say that a key is unknown, what it may have been meant to be, or why it is refused."""
    word, holder = str(path[-1]), _model_at(model, path[:-1])
    if len(path) == 1 and others.get(word):
        return others[word]
    known = [*_names(holder), *(others if len(path) == 1 else ())]
    return f"unknown key{did_you_mean(word, known)}"


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    """Return the model whose keys stand at `path`."""
    kinds: list[Any] = [model]
    for part in path:
        kinds = [inner for kind in kinds for inner in _inside(kind, part)]
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return models[0] if models else BaseModel


def _inside(kind: Any, part: str | int) -> Iterator[Any]:
    """Yield the types that a key or an index of a value of type `kind` may have."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if part in (name, field.alias):
                yield from _plain(field.annotation)
    elif get_origin(kind) in (list, tuple, dict, set, frozenset):
        yield from _plain(get_args(kind)[1 if get_origin(kind) is dict else 0])


def _plain(annotation: Any) -> Iterator[Any]:
    """Yield the members of unions, without what annotations add."""
    if get_origin(annotation) is Annotated:
        yield from _plain(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _plain(member)
    else:
        yield annotation


def _merged(errors: list[_Error]) -> Iterator[_Error]:
    """Yield one error for each place: what a union's branches wanted becomes one list of choices.

    A branch that failed deeper inside had the right type at least, so that the others are not spoken of.
    """
    done: dict[tuple[KeyPath, str], _Error] = {}
    for error in errors:
        deeper = any(other.path[: len(error.path)] == error.path != other.path for other in errors)
        if error.branch and deeper:
            continue
        same = (error.path, error.what)
        first = done.setdefault(same, error)
        done[same] = replace(first, wanted=tuple(dict.fromkeys((*first.wanted, *error.wanted))))
    yield from done.values()


def _problem(error: _Error, data: Any) -> Problem:
    got = error.path[-1] if error.key and error.path else _at(data, error.path)
    wanted = " or ".join(error.wanted)
    quoted = " in quotes; leave them out" if isinstance(got, str) and _is_quoted(got, wanted) else ""
    what = error.what or f"must be {wanted}, got {shown(got)}{quoted}"
    return Problem(error.path, what, error.key)


def _is_quoted(text: str, wanted: str) -> bool:
    """Return whether a text would be what is wanted but for its quotes."""
    return ("number" in wanted and _NUMBER.fullmatch(text) is not None) or (
        "`true`" in wanted and text in ("true", "false")
    )
