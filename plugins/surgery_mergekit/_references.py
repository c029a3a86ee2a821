"""Model references: `path[@revision][+lora[@revision]]`, or the same as mappings; and names for what they mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from surgery.recipe.document import KeyPath, shown
from surgery_mergekit._reading import Reading

_OTHER: Final = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Reference:
    """A model as a document names it: where it lies, and the adapter to fold in; or another document's result."""

    source: str
    adapter: str | None = None
    document: bool = False

    def __str__(self) -> str:
        return f"{self.source}+{self.adapter}" if self.adapter else self.source


def reference(reading: Reading, raw: Any, path: KeyPath) -> Reference | None:
    """Return the model that a value means; None after refusing it.

    What exists on this machine under the whole text is taken for that, before it is split at `+` and `@`.
    """
    if isinstance(raw, str) and raw.strip():
        return _split(reading, raw.strip(), path)
    if not isinstance(raw, dict):
        reading.refuse(path, f"must be a path, a Hub id or a mapping, got {shown(raw)}")
        return None
    reading.mapping(raw, path, ("model", "lora", "override_architecture"))
    if raw.get("override_architecture") is not None:
        what = "`override_architecture` is not needed here: architectures only annotate; remove it"
        reading.warn((*path, "override_architecture"), what, key=True)
    if raw and "model" not in raw:
        return None  # an unknown key is there, and was refused
    model = _part(reading, raw.get("model"), (*path, "model"))
    if model is None:
        return None
    lora = _part(reading, raw["lora"], (*path, "lora")) if raw.get("lora") is not None else None
    return Reference(model, lora)


def _split(reading: Reading, text: str, path: KeyPath) -> Reference | None:
    result, mark, _ = text.partition("+")
    if result in reading.names:
        if mark:
            what = f"`{result}` is the result of a document, which takes no adapter here"
            reading.refuse(path, f"{what}; run that document first and name its folder")
        return Reference(result, document=True)
    if _exists(reading, text):
        return Reference(_local(reading, text))
    parts = text.split("+")
    if len(parts) > 2 or not all(parts):
        reading.refuse(
            path, f"must be `model` or `model+lora`, got {shown(text)}; write `{{model: ..., lora: ...}}`"
        )
        return None
    placed = [_placed(reading, part, path) for part in parts]
    source, adapter = placed[0], placed[1] if len(placed) > 1 else None
    return Reference(source, adapter) if source is not None else None


def _part(reading: Reading, raw: Any, path: KeyPath) -> str | None:
    """Return one part of the long form, which is never split."""
    if isinstance(raw, str) and raw.strip():
        return _local(reading, raw) if _exists(reading, raw) else _placed(reading, raw, path)
    if not isinstance(raw, dict):
        reading.refuse(path, f"must be a path, a Hub id or `{{path: ..., revision: ...}}`, got {shown(raw)}")
        return None
    reading.mapping(raw, path, ("path", "revision"))
    place, revision = raw.get("path"), raw.get("revision")
    if not isinstance(place, str) or not place:
        reading.refuse((*path, "path"), f"must be a path or a Hub id, got {shown(place)}")
        return None
    if _exists(reading, place):
        return _local(reading, place)
    return f"{place}@{revision}" if revision else place


def _placed(reading: Reading, text: str, path: KeyPath) -> str | None:
    if _exists(reading, text):
        return _local(reading, text)
    place, mark, revision = text.partition("@")
    if "@" in revision or (mark and not (place and revision)):
        reading.refuse(path, f"must be `model` or `model@revision`, got {shown(text)}")
        return None
    if mark and _exists(reading, place):
        reading.warn(path, f"`{place}` is a folder, which has no revisions; `@{revision}` is passed over")
        return _local(reading, place)
    return text


def _exists(reading: Reading, text: str) -> bool:
    return (reading.folder / text).exists() or Path(text).exists()


def _local(reading: Reading, text: str) -> str:
    """Return a path relative to the recipe's folder; mergekit's are relative to where it is started."""
    if Path(text).is_absolute():
        return text
    if not (reading.folder / text).exists():
        text = os.path.relpath(text, reading.folder)
    return text if text.startswith((".", "~")) else f"./{text}"


@dataclass(slots=True)
class Models:
    """The recipe's `models:`: a name for every source, adapter and dtype that documents read."""

    taken: set[str]
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: dict[tuple[Reference, str | None, int], str] = field(default_factory=dict)

    def name(self, model: Reference, dtype: str | None, used: Iterable[str] = ()) -> str:
        """Return the name of a model read in a dtype: another one if a step uses it already."""
        if model.document:
            return model.source
        for again in range(len(tuple(used)) + 1):
            key = (model, dtype, again)
            if key not in self.names:
                self.names[key] = self._new(model)
                entry = {"source": model.source, "adapter": model.adapter, "dtype": dtype}
                self.entries[self.names[key]] = {k: v for k, v in entry.items() if v is not None}
            if self.names[key] not in used:
                return self.names[key]
        raise AssertionError(f"{model}: more uses than {len(tuple(used))}")

    def identity(self, name: str) -> tuple[Any, ...]:
        """Return what tells models apart, however often and in whichever dtype they are read: where they lie."""
        entry = self.entries.get(name)
        return (name,) if entry is None else (entry["source"], entry.get("adapter"))

    def free(self, name: str) -> str:
        """Return a name that nothing has yet, and take it: this one, or it with a number."""
        made, count = name, 1
        while made in self.taken:
            count += 1
            made = f"{name}-{count}"
        self.taken.add(made)
        return made

    def _new(self, model: Reference) -> str:
        parts = [part.partition("@")[0].rstrip("/") for part in (model.source, model.adapter) if part]
        name = "-".join(_OTHER.sub("-", part.rsplit("/", 1)[-1]).strip("-.") for part in parts) or "model"
        return self.free(name if name[0].isalpha() or name[0] == "_" else f"m{name}")
