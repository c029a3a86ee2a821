"""Slices: for each, layers of its sources, merged; then all of them stacked.

Embeddings come from the first slice, the final norm and the head from the last one, each as that slice merges them.
A slice of one model that changes nothing needs no step of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from surgery.recipe.document import KeyPath, shown
from surgery_mergekit._filters import Slice
from surgery_mergekit._inputs import check_models
from surgery_mergekit._reading import Reading
from surgery_mergekit._references import Models, Reference, reference
from surgery_mergekit._settings import Settings
from surgery_mergekit._step import Input, Made, Scope, merge_step, scope_of

LAYERS: Final = "stitch.layers"


@dataclass(frozen=True, slots=True)
class Source:
    """Some layers of a model."""

    model: Reference
    first: int
    last: int
    scope: Scope
    path: KeyPath


@dataclass(slots=True)
class _Stack:
    """The slices of a document on their way into steps."""

    reading: Reading
    settings: Settings
    models: Models
    scopes: list[Scope]
    alone: bool
    steps: dict[str, Made] = field(default_factory=dict)
    taken: dict[tuple[str, int, int], str] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    depth: int = 0

    def add(self, raw: Mapping[str, Any], sources: Sequence[Source], path: KeyPath) -> None:
        """Add a slice on top of those before it."""
        settings, count = self.settings, sources[0].last - sources[0].first
        if raw.get("base_model") is not None:
            base = reference(self.reading, raw["base_model"], (*path, "base_model"))
            settings = replace(settings, base=base)
        scopes = [scope_of(self.reading, raw, path, settings), *self.scopes]
        where = Slice(self.depth, count)
        self.depth += count
        plain = settings.word == "passthrough" and len(sources) == 1
        if plain and not any("scale" in scope.values for scope in [sources[0].scope, *scopes]):
            model = self.models.name(sources[0].model, settings.dtype)
            self.take(model, f"{model}[{sources[0].first}:{sources[0].last}]")
        else:
            self.merge(sources, settings, scopes, where, path)

    def merge(
        self,
        sources: Sequence[Source],
        settings: Settings,
        scopes: Sequence[Scope],
        where: Slice,
        path: KeyPath,
    ) -> None:
        """Merge the layers of several models, as a step of their own."""
        inputs: list[Input] = []
        for source in sources:
            name = self.cut(source, settings, {one.name for one in inputs})
            seen = Slice(source.first, source.last - source.first)
            inputs.append(Input(name, source.model, source.scope, source.path, seen))
        base = next((one for one in inputs if one.model == settings.base), None)
        if settings.base is not None and base is None and settings.method.base != "input":
            what = f"the base `{settings.base}` is none of the slice's sources; add it to them"
            self.reading.refuse(path, what)
        elif check_models(self.reading, settings, inputs, base, (*path, "sources")):
            name = (
                settings.name
                if self.alone
                else self.models.free(f"{settings.name}-{where.start}-{self.depth}")
            )
            self.steps[name] = merge_step(self.reading, settings, inputs, base, scopes, where)
            self.steps[name].places[()] = self.reading.place(path)
            self.take(name, f"{name}[:]")

    def cut(self, source: Source, settings: Settings, before: set[str]) -> str:
        """Return the step that takes layers of a model."""
        model = self.models.name(source.model, settings.dtype)
        key = model, source.first, source.last
        if key not in self.taken or self.taken[key] in before:
            name = self.models.free(f"{model}-{source.first}-{source.last}")
            layers = [f"{model}[{source.first}:{source.last}]"]
            step = Made({"op": LAYERS, "models": [model], "layers": layers})
            step.places[()] = self.reading.place((*source.path, "layer_range"))
            self.steps[name] = step
            self.taken[key] = name
        return self.taken[key]

    def take(self, model: str, layers: str) -> None:
        """Put layers on top."""
        self.layers.append(layers)
        if model not in self.used:
            self.used.append(model)

    def close(self, path: KeyPath) -> dict[str, Made]:
        """Return all steps, the last of which stacks the slices."""
        if self.alone and self.settings.name in self.steps:
            return self.steps
        last = Made({"op": LAYERS, "models": self.used, "layers": self.layers, "tied": "embed"})
        last.places[()] = self.reading.place(path)
        self.steps[self.settings.name] = last
        return self.steps


def stack(
    reading: Reading, settings: Settings, raw: Any, path: KeyPath, scopes: list[Scope], models: Models
) -> tuple[dict[str, Made], Reference | None]:
    """Return the steps that merge slices and stack them, and the first model that is named."""
    entries = reading.listed(raw, path, "slices")
    read = [_slice(reading, settings, entry, (*path, j)) for j, entry in enumerate(entries)]
    if reading.problems or not read:
        return {}, None
    work = _Stack(reading, settings, models, scopes, alone=len(read) == 1)
    for j, (entry, sources) in enumerate(read):
        work.add(entry, sources, (*path, j))
    return ({}, None) if reading.problems else (work.close(path), read[0][1][0].model)


def _slice(
    reading: Reading, settings: Settings, entry: Any, path: KeyPath
) -> tuple[Mapping[str, Any], list[Source]]:
    entry = reading.mapping(entry, path, ("sources", "base_model", "parameters", "residual_weight"))
    if entry.get("residual_weight") is not None:
        reading.warn((*path, "residual_weight"), "`residual_weight` does nothing, as in mergekit", key=True)
    raw = reading.listed(entry.get("sources"), (*path, "sources"), "sources")
    found = [_source(reading, settings, one, (*path, "sources", k)) for k, one in enumerate(raw)]
    sources = [source for source in found if source is not None]
    if len({source.last - source.first for source in sources}) > 1:
        lengths = ", ".join(str(source.last - source.first) for source in sources)
        reading.refuse((*path, "sources"), f"sources must have equally many layers, got {lengths}")
    return entry, sources


def _source(reading: Reading, settings: Settings, entry: Any, path: KeyPath) -> Source | None:
    entry = reading.mapping(entry, path, ("model", "layer_range", "parameters"))
    model = reference(reading, entry.get("model"), (*path, "model"))
    layers = entry.get("layer_range")
    whole = isinstance(layers, list) and len(layers) == 2 and all(type(end) is int for end in layers)
    if not whole or not 0 <= layers[0] < layers[1]:
        got = f"`[{layers[0]}, {layers[1]}]`" if whole else shown(layers)
        what = f"must be two layers, the second behind the last one taken, got {got}; write `[0, 8]`"
        reading.refuse((*path, "layer_range"), what)
        return None
    scope = scope_of(reading, entry, path, settings)
    return Source(model, layers[0], layers[1], scope, path) if model is not None else None
