"""A recipe as it may be published beside weights: no path of this machine, no token."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from surgery.recipe.model import Recipe

_TOKEN: Final = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_PLAIN: Final = re.compile(r"[A-Za-z_][\w ./@-]*|\./[\w./@-]*", re.ASCII)
# a path from the root or from a home; one part alone (`/s`) is more often a unit or an alternative
_PATH: Final = re.compile(r"(?<![\w.:/~+-])~?/(?:[^\s/`'\",;:()]+/)+([^\s/`'\",;:()]*)")


def published(recipe: Recipe) -> str:
    """Return the recipe's text, or the same recipe written anew where the text names places of this machine.

    Absolute paths below the recipe's folder become relative to it, others keep their last part; tokens go. A recipe
    that a plugin read from another tool's format is given in ours.
    """
    data = _relative(recipe.document.data, recipe.folder)
    text = recipe.text
    native = bool(recipe.document.positions) and not recipe.document.foreign
    if native and data == recipe.document.data and without_paths(_comments(text)) == _comments(text):
        return text
    return as_yaml(data)


def as_yaml(data: Mapping[str, Any], *, short: bool = False) -> str:
    """Return a recipe's plain data as YAML that every reader takes for the same data.

    `short`: a list or mapping of scalars stands on one line.
    """
    flow = None if short else False
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=flow
    )


def published_source(recipe: Recipe, name: str) -> str:
    """Return where a model comes from as it may be published."""
    source = recipe.models[name].source
    return _local(source, recipe.folder) if source.startswith(("/", "~/")) else _TOKEN.sub("hf_...", source)


def without_paths(text: str) -> str:
    """Return a message of which absolute paths keep their last part, and tokens nothing."""
    return _TOKEN.sub("hf_...", _PATH.sub(lambda found: found[1] or "...", text))


def _relative(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _relative(part, folder) for key, part in value.items()}
    if isinstance(value, list):
        return [_relative(part, folder) for part in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~/")):
        return _local(value, folder)
    return _TOKEN.sub("hf_...", value)


def _local(path: str, folder: Path) -> str:
    whole = Path(path).expanduser() if path.startswith("~/") else Path(path)
    try:
        return f"./{whole.relative_to(folder.absolute())}"
    except ValueError:
        return f"./{whole.name}"


def _comments(text: str) -> str:
    """Return what may be comments: all text behind a `#`."""
    return "\n".join(_behind_marks(text))


def _behind_marks(text: str) -> Iterator[str]:
    for line in text.splitlines():
        _, mark, comment = line.partition("#")
        if mark:
            yield comment


class _Dumper(yaml.SafeDumper):
    """Quotes every text that is not plainly one: YAML's readers do not agree on what is a number."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what is repeated twice."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", value, style=None if _PLAIN.fullmatch(value) else '"'
    )


_Dumper.add_representer(str, _text)
