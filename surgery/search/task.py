"""What a search is asked to do: the space of its recipe, how candidates are proposed, and how they are scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from surgery.errors import Finding, RecipeError, SurgeryError, did_you_mean
from surgery.host import Host
from surgery.ops import Params
from surgery.recipe.document import Document, KeyPath, Problem
from surgery.recipe.load import read_text, recipe_of
from surgery.recipe.model import Chosen, Recipe, Search
from surgery.recipe.problems import problems_of
from surgery.recipe.resolve_ops import resolve_steps
from surgery.recipe.yaml import read_yaml
from surgery.search.space import Space, space_of
from surgery.trials import EvaluatorKind, SamplerKind, Value

K = TypeVar("K", SamplerKind, EvaluatorKind)


@dataclass(frozen=True, slots=True)
class Task:
    """A recipe with holes whose text is right. `held_out` are the evaluator's parameters for the final scores."""

    space: Space
    folder: Path
    host: Host
    settings: Search
    sampler: SamplerKind
    sampler_params: Params
    evaluator: EvaluatorKind
    params: Params
    held_out: Params | None

    @property
    def file(self) -> str:
        """Return the recipe's file as messages name it."""
        return self.space.document.file

    def recipe(self, genome: Sequence[Value]) -> Recipe:
        """Return the recipe with the holes filled. Raises RecipeError."""
        return recipe_of(self.space.filled(genome), self.folder)


def load_task(path: str | Path, plugins: Iterable[str | Path] = (), *, trust: bool = False) -> Task:
    """Load a recipe with holes and a `search:` block; no model is looked at.

    plugins  Python files with ops, samplers or evaluators of your own
    trust    an evaluator may run code that the recipe names

    Raises RecipeError with all findings at once, PluginError when a plugin cannot be loaded.
    """
    host = Host(Path(file) for file in plugins)
    space = space_of(read_yaml(read_text(path), str(path)))
    folder = Path(path).parent
    recipe = recipe_of(space.filled(space.centre), folder)
    settings = recipe.search
    if settings is None or not space.holes or recipe.output is None:
        raise RecipeError(list(_unsearchable(recipe, space)))
    setup = _Setup(space.document, host)
    sampler = setup.find("sampler", settings.sampler, host.sampler)
    evaluator = setup.find("evaluator", settings.evaluator, host.evaluator)
    sampler_params = sampler and setup.params(sampler.params, settings.sampler, {}, "sampler")
    params = evaluator and setup.params(evaluator.params, settings.evaluator, {}, "evaluator")
    held_out = None
    if evaluator and settings.held_out is not None:
        held_out = setup.params(evaluator.params, settings.evaluator, settings.held_out, "evaluator")
    if evaluator is not None and evaluator.executes and not trust:
        what = f"`{evaluator.name}` runs code that the recipe names; if you trust it, pass --trust"
        setup.problems.append(Problem(("search", "evaluator"), what))
    findings = [*space.document.findings(setup.problems), *_findings_at_ends(space, folder, host)]
    if findings or not (sampler and evaluator and sampler_params and params):
        raise RecipeError(findings)
    return Task(space, folder, host, settings, sampler, sampler_params, evaluator, params, held_out)


def _unsearchable(recipe: Recipe, space: Space) -> Iterable[Finding]:
    if recipe.search is None:
        what = "missing key `search`: what proposes candidates and what scores them; see `docs/search.md`"
        yield recipe.finding((), what, key=True)
    if not space.holes:
        yield recipe.finding((), "no hole to search; write one, such as `weight: ${search: [0, 1]}`")
    if recipe.output is None:
        yield recipe.finding(("outputs",), "a search makes one model; write `output:`", key=True)


def _findings_at_ends(space: Space, folder: Path, host: Host) -> list[Finding]:
    """Return what ops say of the ends of ranges and of the choices, so that no trial is lost on them."""
    found: dict[Finding, None] = {}
    for genome in (space.centre, *space.corners()):
        try:
            resolve_steps(recipe_of(space.filled(genome), folder), host.op, host.op_names)
        except RecipeError as error:
            found.update(dict.fromkeys(error.findings))
    return list(found)


class _Setup:
    """Finds sampler and evaluator, checks their parameters, collects what is wrong."""

    def __init__(self, document: Document, host: Host) -> None:
        self.document, self.host = document, host
        self.problems: list[Problem] = []

    def find(self, what: str, chosen: Chosen, lookup: Callable[[str], K | None]) -> K | None:
        path: KeyPath = ("search", what, "name")
        try:
            found = lookup(chosen.name)
        except SurgeryError as error:
            self.problems.append(Problem(path, str(error)))
            return None
        if found is None:
            hint = did_you_mean(chosen.name, self.host.trial_names(what))
            self.problems.append(Problem(path, f"no {what} is called `{chosen.name}`{hint}"))
        return found

    def params(
        self, kind: type[Params], chosen: Chosen, instead: Mapping[str, Any], key: str
    ) -> Params | None:
        """Return checked parameters; those of `instead` go before those that are written at `key`."""
        data = {**chosen.params, **instead}
        try:
            # as JSON, because strict means there what it must mean for YAML: see `resolve_ops`
            return kind.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            for one in problems_of(error, data, kind, {"name": ""}):
                home = "held_out" if one.path and one.path[0] in instead else key
                self.problems.append(Problem(("search", home, *one.path), one.what, one.key))
            return None
