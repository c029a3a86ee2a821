"""The text of a starter recipe: made from an op's declaration, so that every op has one."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from surgery.errors import SurgeryError

if TYPE_CHECKING:
    from surgery.ops import Op, Params

_WIDTH: Final = 100
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
        *_comment(op.summary, "    "),
        f"    op: {op.name}",
        *(["    base: base"] if with_base else []),
        *_inputs(op, names),
        *_parameters(op.params, "    "),
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
    missing = [name for kind in (op.params, op.each) if kind for name in _required(kind)]
    if missing:
        listed = ", ".join(f"`{name}`" for name in missing)
        raise SurgeryError(
            f"`{op.name}` needs {listed}, for which there is no default; see `surgery op {op.name}` and write it by hand"
        )
    least, most = op.models
    if sources and not least <= len(sources) <= (most or len(sources)):
        wanted = f"{least}" if least == most else f"{least} or more" if most is None else f"{least} to {most}"
        raise SurgeryError(f"`{op.name}` takes {wanted} models, got {len(sources)}; give as many")
    if base is not None and op.base == "none":
        raise SurgeryError(f"`{op.name}` takes no base; leave --base out")


def _required(kind: type[Params]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items() if field.is_required()]


def _names(op: Op, sources: Sequence[str]) -> list[str]:
    """Return names for the models: from their paths where these give distinct ones."""
    if not sources:
        least, most = op.models
        number = max(least, min(2, most or 2))
        return ["model"] if number == 1 else [f"model_{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"[:number]]
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
    if not Path(source).expanduser().exists() or Path(source).expanduser().is_absolute() or source.startswith("~"):
        return source
    relative = os.path.relpath(source, file.parent)
    return relative if relative.startswith("..") else f"./{relative}"


def _inputs(op: Op, names: Sequence[str]) -> Iterator[str]:
    if op.takes_one:
        yield f"    model: {names[0]}"
        return
    yield "    models:"
    for name in names:
        if op.each is None:
            yield f"      - {name}"
        else:
            yield f"      {name}: {{}}"
    if op.each is not None:
        yield "      # for each model, such as `{NAME: {KEY: VALUE}}`:"
        yield from _parameters(op.each, "      ")


def _parameters(kind: type[Params], indent: str) -> Iterator[str]:
    """Yield a kind's parameters, each with its description and its default, commented out."""
    for name, field in kind.model_fields.items():
        yield from _comment(field.description or "", indent)
        value = field.get_default(call_default_factory=True)
        yield f"{indent}# {field.alias or name}: {_value(value)}"


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
    plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS and not re.match(r"[-.]?[\d.]", text + " ")
    plain = plain or (text.startswith(("./", "../")) and _PLAIN.fullmatch(text))
    return text if plain else json.dumps(text)
