"""Who takes whom: names that nothing has, steps that go round in a circle, results that nobody uses.

Works on plain data and passes over what has the wrong type, which the models report, so that everything
wrong with a recipe is found at once.
"""

from __future__ import annotations

import graphlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

from surgery.errors import did_you_mean
from surgery.recipe.document import MOST, KeyPath, Problem, dotted, shown

LONGEST_PATH: Final = 4096
_RING: Final = 10  # links of a circle of steps that a message shows
_URI: Final = re.compile(r"[a-z][a-z0-9+]+:")


@dataclass(frozen=True, slots=True)
class Reference:
    """A name written at a path (or as the key there), for a model or step, or for a model only."""

    path: KeyPath
    name: str
    key: bool = False
    models_only: bool = False


def reference_problems(data: Mapping[str, Any], folder: Path) -> list[Problem]:
    """Return what is wrong with the names in a recipe, and with the places that it writes to."""
    kinds = (_shadowed(data), _unknown(data), _repeated(data), _cycles(data), _outputs(data, folder))
    return [problem for kind in kinds for problem in itertools.islice(kind, MOST)]


def unused(data: Mapping[str, Any]) -> list[Problem]:
    """Return the steps that no output needs, and the models that nothing names."""
    known = {*_map(data, "models"), *_map(data, "steps")}
    takes = {name: {ref.name for ref in refs} for name, refs in _taken(data).items()}
    for name, step in _map(data, "steps").items():
        takes[name] |= known.intersection(_beside(step))
    needed = {ref.name for ref in _written(data)}
    named = needed.union(*takes.values())
    queue = list(needed)
    while queue:
        new = takes.get(queue.pop(), set()) - needed
        needed |= new
        queue += new
    steps = [Problem(("steps", name), _NO_OUTPUT, key=True) for name in takes if name not in needed]
    models = [
        Problem(("models", name), _NOBODY, key=True) for name in _map(data, "models") if name not in named
    ]
    return [*steps, *models]


_NO_OUTPUT: Final = (
    "no output needs this step, so that it is not computed; remove it, or write it with `outputs:`"
)
_NOBODY: Final = "no step and no output names this model; remove it, or name it in a step"


def _map(data: Any, key: str) -> dict[str, Any]:
    """Return the mapping under a key, empty if there is something else."""
    value = data.get(key) if isinstance(data, Mapping) else None
    return value if isinstance(value, dict) else {}


def _taken(data: Mapping[str, Any]) -> dict[str, list[Reference]]:
    """Return what each step takes."""
    return {name: list(_inputs(step, ("steps", name))) for name, step in _map(data, "steps").items()}


def _inputs(step: Any, path: KeyPath) -> Iterator[Reference]:
    if not isinstance(step, dict):
        return
    for key in ("base", "model"):
        if isinstance(step.get(key), str):
            yield Reference((*path, key), step[key])
    models = step.get("models")
    if isinstance(models, dict):
        yield from (Reference((*path, "models", name), name, key=True) for name in models)
    elif isinstance(models, list):
        named = (pair for pair in enumerate(models) if isinstance(pair[1], str))
        yield from (Reference((*path, "models", i), name) for i, name in named)


def _beside(step: Any) -> Iterator[str]:
    """Yield the text among the models' parameters: which of it names what stands beside a model, only the op knows."""
    for params in _map(step, "models").values():
        if isinstance(params, dict):
            yield from (value for value in params.values() if isinstance(value, str))


def _outputs_of(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Yield the outputs that are mappings, with their paths."""
    if isinstance(data.get("output"), dict):
        yield ("output",), data["output"]
    for name, output in _map(data, "outputs").items():
        if isinstance(output, dict):
            yield ("outputs", name), output


def _written(data: Mapping[str, Any]) -> Iterator[Reference]:
    for path, output in _outputs_of(data):
        for key in ("model", "tokenizer"):
            if isinstance(output.get(key), str):
                yield Reference((*path, key), output[key], models_only=key == "tokenizer")


def _shadowed(data: Mapping[str, Any]) -> Iterator[Problem]:
    for name in _map(data, "steps"):
        if name in _map(data, "models"):
            yield Problem(("steps", name), "a step with the name of a model; rename one of them", key=True)


def _unknown(data: Mapping[str, Any]) -> Iterator[Problem]:
    models = _map(data, "models")
    both = models | _map(data, "steps")
    for ref in itertools.chain(*_taken(data).values(), _written(data)):
        known, kind = (models, "model") if ref.models_only else (both, "model or step")
        if ref.name not in known:
            what = f"no {kind} is called {shown(ref.name)}{did_you_mean(ref.name, known)}"
            yield Problem(ref.path, what, ref.key)


def _repeated(data: Mapping[str, Any]) -> Iterator[Problem]:
    for refs in _taken(data).values():
        seen = set()
        for ref in refs:
            if ref.path[2] == "models" and ref.name in seen:
                yield Problem(ref.path, f"{shown(ref.name)} is listed twice; list it once")
            seen |= {ref.name} if ref.path[2] == "models" else set()


def _cycles(data: Mapping[str, Any]) -> Iterator[Problem]:
    steps = _map(data, "steps")
    yield from circles(
        {name: [ref.name for ref in refs if ref.name in steps] for name, refs in _taken(data).items()}
    )


def circles(takes: dict[str, list[str]]) -> Iterator[Problem]:
    """Yield circles of steps, by the steps that each takes, until cutting each at its first step leaves none."""
    order = {name: i for i, name in enumerate(takes)}
    while cycle := _cycle(takes):
        first = min(cycle, key=order.__getitem__)
        start = cycle.index(first)
        ring = [*cycle[start:], *cycle[:start], first]
        links = [f"`{a}` takes `{b}`" for a, b in itertools.pairwise(ring)]
        more = f", ... ({len(links)} in all)" if len(links) > _RING else ""
        circle = ", ".join(links[:_RING]) + more
        what = f"steps go round in a circle: {circle}; let one of them take something else"
        yield Problem(("steps", first), what, key=True)
        takes[first] = [name for name in takes[first] if name != ring[1]]


def _cycle(takes: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the steps of a circle, each taking the next; empty if there is none."""
    try:
        graphlib.TopologicalSorter(takes).prepare()
    except graphlib.CycleError as error:
        ring: list[str] = error.args[1]
        return ring[:0:-1]  # graphlib lists what is taken first, and closes the ring
    return []


def _outputs(data: Mapping[str, Any], folder: Path) -> Iterator[Problem]:
    """Yield what is wrong with the outputs together: none, both kinds, two in one place."""
    given = [key for key in ("output", "outputs") if data.get(key) is not None]
    if not given:
        yield Problem((), "missing key `output`", key=True)
    if len(given) > 1:
        yield Problem(("outputs",), "both `output` and `outputs`; keep one", key=True)
    places: dict[str, KeyPath] = {}
    for path, output in _outputs_of(data):
        to = output.get("to")
        if isinstance(to, str) and 0 < len(to) <= LONGEST_PATH:
            place = _place(to, folder)
            first = places.setdefault(place, path)
            if first != path:
                what = f"writes where `{dotted(first)}` does, got {shown(to)}; give each its own folder"
                yield Problem((*path, "to"), what)
    yield from _nested(places)


def _nested(places: Mapping[str, KeyPath]) -> Iterator[Problem]:
    """Yield the outputs that lie inside another's folder, which is published by renaming it as a whole."""
    for place, path in places.items():
        outer = next((str(parent) for parent in PurePath(place).parents if str(parent) in places), None)
        if outer and not _URI.match(place):
            what = f"lies inside the folder of `{dotted(places[outer])}`; give each its own folder"
            yield Problem((*path, "to"), what)


def _place(to: str, folder: Path) -> str:
    return to if _URI.match(to) else os.path.normpath(folder / os.path.expanduser(to))
