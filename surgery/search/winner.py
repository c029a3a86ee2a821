"""The winner as a recipe that anybody can run: plain YAML, no holes, nothing of the search."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from surgery.recipe.document import Document
from surgery.search.space import SEARCH_KEY

_URI: Final = re.compile(r"[a-z][a-z0-9+.-]+:")
# Text that no reader of YAML takes for something else; all other text is quoted.
_BARE: Final = re.compile(r"(?!(?:true|false|null|yes|no|on|off|y|n)$)(?:\.{0,2}/|[A-Za-z_])[A-Za-z0-9_./-]*")


class _Dumper(yaml.SafeDumper):
    """Writes text so that this project's reader and YAML 1.1's agree on it, and never uses aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = None if _BARE.fullmatch(value) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _number(dumper: _Dumper, value: float) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:float", repr(value))


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, _number)


def plain_yaml(document: Document, folder: Path, to: Path, notes: Sequence[str] = ()) -> str:
    """Return a filled document as YAML for a recipe in the folder `to`; local paths lead there from `folder`.

    `notes` become comments at its beginning.
    """
    data = {key: value for key, value in document.data.items() if key != SEARCH_KEY}
    data["models"] = {name: _source(source, folder, to) for name, source in data["models"].items()}
    if "to" in data["output"]:
        data["output"] = {**data["output"], "to": _path(data["output"]["to"], folder, to)}
    if "steps" in data:
        data["steps"] = {name: _calibrated(step, folder, to) for name, step in data["steps"].items()}
    data = _calibrated(data, folder, to)
    dumped = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True
    )
    return "".join(f"# {note}\n" for note in notes) + dumped


def _source(source: Any, folder: Path, to: Path) -> Any:
    """Return where a model comes from, seen from another folder; what is no local path stays."""
    if isinstance(source, dict):
        return {key: _source(value, folder, to) for key, value in source.items()}
    local = (folder / Path(source).expanduser()).exists()
    return _path(source, folder, to) if local else source


def _calibrated(part: dict[str, Any], folder: Path, to: Path) -> dict[str, Any]:
    """Return a recipe or a step whose calibration text is found from another folder."""
    found = part.get("calibration")
    return {**part, "calibration": _texts(found, folder, to)} if isinstance(found, dict) else part


def _texts(calibration: dict[str, Any], folder: Path, to: Path) -> dict[str, Any]:
    text = calibration["text"]
    moved = [_path(one, folder, to) for one in text] if isinstance(text, list) else _path(text, folder, to)
    return {**calibration, "text": moved}


def _path(path: str, folder: Path, to: Path) -> str:
    """Return a path relative to `to`; absolute ones, those of a home folder and URIs stay as they are."""
    if _URI.match(path) or path.startswith(("~", "/")):
        return path
    moved = os.path.relpath(folder.resolve() / path, to.resolve())
    return moved if moved.startswith(".") else f"./{moved}"
