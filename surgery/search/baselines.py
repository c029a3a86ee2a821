"""Generation 0: what a search has to beat. Each parent, the parents' plain average, and the middle of the space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx

from surgery.companion import flat
from surgery.plan.model import Plan
from surgery.recipe.document import Document
from surgery.search.space import SEARCH_KEY, Genome
from surgery.search.task import Task


@dataclass(frozen=True, slots=True)
class Baseline:
    """A plain recipe; `genome` if it is the recipe with its holes filled."""

    name: str
    document: Document
    genome: Genome | None = None


def baselines(task: Task, centre: Plan) -> list[Baseline]:
    """Return the baselines; `centre` is the plan of the recipe with holes at their centre."""
    document = task.space.document
    named = parents(centre)
    found = [Baseline(f"parent {name}", _plain(document, name)) for name in named]
    averaged = [name for name in named if name not in set(_only_bases(centre, named))]
    if task.settings.average and len(averaged) > 1:
        step = {"op": task.settings.average, "models": dict.fromkeys(averaged, 1)}
        found.append(Baseline("average", _plain(document, "average", {"average": step})))
    middle = task.space.centre
    return [*found, Baseline("centre", task.space.filled(middle), middle)]


def parents(plan: Plan) -> list[str]:
    """Return the models that the output is made of, without mere statistics, in the order of the recipe."""
    graph = plan.graph()
    for step in plan.steps.values():
        weights = {step.base, *step.models}
        graph.remove_edges_from((one, step.name) for one in flat(step.companions) if one not in weights)
    needed = nx.ancestors(graph, f"-> {plan.outputs[0].name}")
    return [name for name in plan.recipe.models if name in needed]


def _only_bases(plan: Plan, names: Iterable[str]) -> Iterator[str]:
    """Yield the models that steps compare others with, and no step takes as one of its models."""
    bases = {step.base for step in plan.steps.values()}
    taken = {name for step in plan.steps.values() for name in step.models}
    yield from (name for name in names if name in bases and name not in taken)


def _plain(document: Document, model: str, steps: dict[str, Any] | None = None) -> Document:
    """Return the document of a recipe that writes a model, or what `steps` make of several, as this one would."""
    data = {key: value for key, value in document.data.items() if key not in ("steps", SEARCH_KEY)}
    data["output"] = {**data["output"], "model": model}
    if steps:
        data["steps"] = steps
    return replace(document, data=data, holes=())
