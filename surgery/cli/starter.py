"""The text of a starter recipe: made from an op's declaration, so that every op has one."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from surgery.cli.registry import models_of
from surgery.errors import SurgeryError

if TYPE_CHECKING:
    from surgery.ops import Op, Params

_WIDTH: Final = 100
_STEP: Final = "    "  # the indent of a step's keys
_GUESS: Final = 0.5  # for numbers without a default: weights, densities, how far between two models
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./~-][A-Za-z0-9_./@~+-]*")
# YAML 1.1 reads these as something else than text
_WORDS: Final = frozenset(("yes", "no", "on", "off", "true", "false", "null", "y", "n", "~"))


def starter(op: Op, file: Path, sources: Sequence[str], base: str | None, to: str) -> str:
    """Return a commented recipe that applies `op` to `sources`, to be saved as `file`.

    Local paths are written relative to the recipe's folder. Raises SurgeryError for an op that cannot be written
    without knowing more: parameters without defaults, another number of models, a base that it does not take.
    """
    _check(op, sources, base)
    with_base = op.base == "required" or base is not None
    names = _names(op, sources)
    given = [_source(source, file) for source in sources] or [f"./{name}" for name in names]
    models = dict(zip(names, given, strict=True))
    lines = [
        "# Paths are relative to this file's folder; `org/name` and `org/name@revision` are models on the Hub.",
        f"# See what it does with `surgery plan {file.name}`, carry it out with `surgery run {file.name}`.",
        "surgery: 1",
        "models:",
        *([f"  base: {_scalar(_source(base, file) if base else './base')}"] if with_base else []),
        *(f"  {name}: {_scalar(source)}" for name, source in models.items()),
        "steps:",
        "  result:",
        *_comment(op.summary, _STEP),
        f"    op: {op.name}",
        *(["    base: base"] if with_base else []),
        *_inputs(op, names),
        *_parameters(op),
        "output:",
        "  model: result",
        f"  to: {_scalar(to)}",
        "  # dtype: bfloat16                  # how tensors are stored; by default as they are computed",
        f"  # tokenizer: {'base' if with_base else names[0]}".ljust(37)
        + "# the model whose tokenizer and other files are copied",
        "",
    ]
    return "\n".join(lines)


def _check(op: Op, sources: Sequence[str], base: str | None) -> None:
    missing = [name for kind in (op.params, op.each) if kind for name in _unguessed(kind)]
    if missing:
        listed = ", ".join(f"`{name}`" for name in missing)
        raise SurgeryError(
            f"`{op.name}` needs {listed}, which only you know; write the recipe by hand, see `surgery op {op.name}`"
        )
    least, most = op.models
    if sources and not least <= len(sources) <= (most or len(sources)):
        noun = "model" if op.takes_one else "models"
        raise SurgeryError(f"`{op.name}` takes {models_of(op)} {noun}, got {len(sources)}; give as many")
    if base is not None and op.base == "none":
        raise SurgeryError(f"`{op.name}` takes no base; leave --base out")


def _required(kind: type[Params] | None) -> list[str]:
    fields = kind.model_fields.items() if kind else ()
    return [field.alias or name for name, field in fields if field.is_required()]


def _unguessed(kind: type[Params]) -> list[str]:
    """Return the parameters without defaults that are no numbers which may be `_GUESS`."""
    from pydantic import ValidationError

    required = _required(kind)
    try:
        kind.model_validate(dict.fromkeys(required, _GUESS))
    except ValidationError as error:
        refused = {detail["loc"][0] for detail in error.errors()}
        return [name for name in required if name in refused]
    return []


def _names(op: Op, sources: Sequence[str]) -> list[str]:
    """Return names for the models: from their paths where these give distinct ones."""
    if not sources:
        least, most = op.models
        number = max(least, min(2, most or 2))
        return ["model"] if number == 1 else [f"model_{i}" for i in range(1, number + 1)]
    names = [re.sub(r"[^A-Za-z0-9_-]+", "_", _stem(source)).strip("_-") for source in sources]
    taken = {"base", "result"}
    if len(set(names) - taken) == len(names) and all(re.match(r"[A-Za-z_]", name) for name in names):
        return names
    return [f"model_{i}" for i in range(1, len(sources) + 1)]


def _stem(source: str) -> str:
    name = Path(source.partition("@")[0]).name
    return re.sub(r"\.(safetensors|bin|pt|pth|gguf)$", "", name)


def _source(source: str, file: Path) -> str:
    """Return a source as the recipe writes it: what exists here, relative to the recipe's folder."""
    if not Path(source).exists() or Path(source).is_absolute():
        return source
    relative = os.path.relpath(source, file.parent)
    return relative if relative.startswith("..") else f"./{relative}"


def _inputs(op: Op, names: Sequence[str]) -> Iterator[str]:
    if op.takes_one:
        yield f"    model: {names[0]}"
        return
    yield "    models:"
    if op.each is None:
        yield from (f"      - {name}" for name in names)
        return
    each = [(key, value) for key, value, _ in _keys(op.each) if value != "null"]
    for key, _, description in _keys(op.each):
        yield from _comment(f"{key}: {description}", "      ")
    written = ", ".join(f"{key}: {value}" for key, value in each)
    yield from (f"      {name}: {{{written}}}" for name in names)


def _parameters(op: Op) -> Iterator[str]:
    """Yield the step's parameters with their descriptions; those that have defaults commented out."""
    required = _required(op.params)
    for key, value, description in _keys(op.params):
        yield from _comment(description, _STEP)
        yield f"{_STEP}{'' if key in required else '# '}{key}: {value}"


def _keys(kind: type[Params]) -> Iterator[tuple[str, str, str]]:
    """Yield each parameter's key, its default (or the guess) as YAML, and its description."""
    for name, field in kind.model_fields.items():
        value = _GUESS if field.is_required() else field.get_default(call_default_factory=True)
        yield field.alias or name, _value(value), field.description or ""


def _comment(text: str, indent: str) -> list[str]:
    words = " ".join(text.split())
    return textwrap.wrap(words, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _value(value: Any) -> str:
    """Return a default as YAML's flow style, which JSON is."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    return _scalar(value) if isinstance(value, str) else json.dumps(value, default=str)


def _scalar(text: str) -> str:
    """Return text as YAML: plain where that is safe, in double quotes elsewhere."""
    relative = text.startswith(("./", "../"))
    number = re.match(r"[-.]?[\d.]", text) is not None
    safe = _PLAIN.fullmatch(text) and (relative or not (number or text.lower() in _WORDS))
    return text if safe else json.dumps(text)
