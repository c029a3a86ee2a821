"""From the steps as written to steps that know their op: names, numbers of models, parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from surgery.companion import Beside, flat
from surgery.errors import PluginError, RecipeError, SurgeryError, did_you_mean
from surgery.ops import NoParams, Op, Params, Split
from surgery.recipe.companions import companion_problems, named
from surgery.recipe.document import MOST, KeyPath, Problem, shown
from surgery.recipe.model import STEP_KEYS, Calibration, Missing, Recipe, Step
from surgery.recipe.problems import problems_of
from surgery.recipe.select import Selection, compile_selector
from surgery.scalars import DEFAULT_SELECTOR, BySelector

Lookup = Callable[[str], Op | None]
Known = Iterable[str] | Callable[[], Iterable[str]]


@dataclass(frozen=True, slots=True)
class ResolvedStep:
    """A step whose op is known and whose parameters are checked.

    `models` are sorted by name unless the op is ordered, `first` is the first as written; `each` holds the parameters
    of every one of them, and `companions` what stands beside them, by the parameter that names it.
    """

    name: str
    op: Op
    base: str | None
    models: tuple[str, ...]
    params: Params
    each: tuple[Params, ...]
    where: Selection | None
    missing: Missing
    tokenizer: Literal["accept"] | None = None
    first: str = ""
    companions: Beside[str] = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the models and steps that the step reads, each once: the base first, what stands beside them last."""
        named = [*([self.base] if self.base else []), *self.models, *flat(self.companions)]
        return tuple(dict.fromkeys(named))


def resolve_steps(
    recipe: Recipe, ops: Mapping[str, Op] | Lookup, known: Known = ()
) -> dict[str, ResolvedStep]:
    """Return the steps by name, in the recipe's order. Raises RecipeError with all findings of all steps.

    `ops` maps names to ops, or is asked for each name: if there is no such op it returns None or raises
    LookupError, and a SurgeryError becomes a finding. `known`, or what it returns, are names to suggest then.
    """
    lookup: Lookup = ops if callable(ops) else ops.get
    names: Known = known or (() if callable(ops) else ops)
    resolved, problems = {}, []
    for name, step in recipe.steps.items():
        resolving = _Resolving(name, step)
        found = resolving.run(lookup, names)
        problems += resolving.problems
        if len(problems) > MOST:
            break
        if found:
            resolved[name] = found
    problems += companion_problems(resolved, [*recipe.models, *recipe.steps])
    if problems:
        raise RecipeError(recipe.findings(problems))
    return resolved


class _Resolving:
    """One step on its way; collects what is wrong with it."""

    def __init__(self, name: str, step: Step) -> None:
        self.name = name
        self.step = step
        self.path: KeyPath = ("steps", name)
        self.problems: list[Problem] = []

    def refuse(self, what: str, *path: str | int, key: bool = False) -> None:
        self.problems.append(Problem((*self.path, *path), what, key))

    def run(self, lookup: Lookup, known: Known) -> ResolvedStep | None:
        """Return the resolved step; it is not to be used if there are problems."""
        op = self.op(lookup, known)
        if op is None:
            return None
        self.base(op)
        self.where(op)
        self.calibration(op)
        written = self.models(op)
        params = self.params(op)
        models = list(written) if op.ordered else sorted(written)
        each = [self.each(op, *written[model]) for model in models]
        step = self.step
        where = [step.where] if isinstance(step.where, str) else step.where
        return ResolvedStep(
            name=self.name,
            op=op,
            base=step.base,
            models=tuple(models),
            params=params,
            each=tuple(each),
            where=Selection(where) if where else None,
            missing=step.missing,
            tokenizer=step.tokenizer,
            first=next(iter(written), ""),
            companions=named(op, each),
            calibration=step.calibration,
        )

    def op(self, lookup: Lookup, known: Known) -> Op | None:
        name = self.step.op
        try:
            op = lookup(name)
        except LookupError:
            op = None
        except SurgeryError as error:
            self.refuse(str(error), "op")
            return None
        if op is None:
            names = known() if callable(known) else known
            self.refuse(f"no op is called `{name}`{did_you_mean(name, names)}", "op")
        return op

    def base(self, op: Op) -> None:
        if op.base == "required" and self.step.base is None:
            self.refuse(f"missing key `base`, which `{op.name}` needs", key=True)
        if op.base == "none" and self.step.base is not None:
            self.refuse(f"`{op.name}` takes no base; remove `base`", "base", key=True)

    def where(self, op: Op) -> None:
        if op.splits == (Split.LAYOUT,) and self.step.where is not None:
            self.refuse(f"`{op.name}` arranges whole models; remove `where`", "where", key=True)

    def calibration(self, op: Op) -> None:
        if self.step.calibration is not None and not op.needs:
            self.refuse(f"`{op.name}` looks at no activations; remove `calibration`", "calibration", key=True)

    def models(self, op: Op) -> dict[str, tuple[KeyPath, Any]]:
        """Return where each model's parameters are written, and they, after counting the models."""
        step, count = self.step, _count(op)
        if step.model is not None and step.models is not None:
            self.refuse("both `model` and `models`; keep one", "models", key=True)
        elif step.model is not None and not op.takes_one:
            self.refuse(f"`{op.name}` takes {count}; write `models: [{step.model}, ...]`", "model", key=True)
        elif step.model is None and step.models is None and op.models[0] > 0:
            key = "model" if op.takes_one else "models"
            self.refuse(f"missing key `{key}`; `{op.name}` takes {count}", key=True)
        elif step.models is not None and not _enough(op, len(step.models)):
            self.refuse(f"`{op.name}` takes {count}, got {len(step.models)}", "models", key=True)
        if isinstance(step.models, dict):
            return {name: ((*self.path, "models", name), each) for name, each in step.models.items()}
        if step.models is not None:
            return {name: ((*self.path, "models", i), None) for i, name in enumerate(step.models)}
        return {step.model: ((*self.path, "model"), None)} if step.model is not None else {}

    def params(self, op: Op) -> Params:
        others = dict.fromkeys(STEP_KEYS, "")
        for key in _fields(op.each):
            others[key] = f"`{key}` is set for each model; write `models: {{NAME: {{{key}: ...}}}}`"
        clash = set(STEP_KEYS) & set(_fields(op.params))
        if clash:
            raise PluginError(
                f"op `{op.name}`: parameter `{min(clash)}` has the name of a step's key; rename it"
            )
        return self.checked(op.params, self.step.params, self.path, others)

    def each(self, op: Op, path: KeyPath, written: Any) -> Params:
        """Return one model's parameters; a bare number is its weight."""
        if op.each is None:
            if written not in (None, {}):
                what = f"`{op.name}` has no parameters for each model, got {shown(written)}; list the models"
                self.problems.append(Problem(path, what))
            return NoParams()
        if isinstance(written, int | float):
            if "weight" not in op.each.model_fields:
                what = f"must be a mapping, got {shown(written)}; `{op.name}` has no `weight` for each model"
                self.problems.append(Problem(path, what))
                return NoParams()
            written = {"weight": written}
        if isinstance(path[-1], int) and (needed := _needed(op.each)):
            instead = f"{{{list(self.step.models or ())[path[-1]]}: {{{needed}: ...}}}}"
            what = f"missing key `{needed}`; write `models: {instead}` in place of a list"
            self.problems.append(Problem(path, what))
            return NoParams()
        text = "`{}` is set for the whole step; write it beside `op`"
        others = {key: text.format(key) for key in _fields(op.params)}
        return self.checked(op.each, written or {}, path, others)

    def checked(self, kind: type[Params], data: Any, path: KeyPath, others: Mapping[str, str]) -> Params:
        """Return parameters after pydantic's check and ours."""
        try:
            # As JSON, because strict means there what it must mean for YAML: a list may become a tuple, and
            # text a member of an enum, but text never a number
            params = kind.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            found = problems_of(error, data, kind, others)
            self.problems += [Problem((*path, *one.path), one.what, one.key) for one in found]
            return NoParams()
        for place, selector in _selectors(params, ()):
            try:
                compile_selector(selector)
            except ValueError as error:
                self.problems.append(Problem((*path, *place, selector), str(error), key=True))
        return params


def _fields(model: type[Params] | None) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _needed(model: type[Params]) -> str | None:
    """Return the first parameter that has no default, if there is one."""
    needed = (field.alias or name for name, field in model.model_fields.items() if field.is_required())
    return next(needed, None)


def _enough(op: Op, count: int) -> bool:
    least, most = op.models
    return count >= least and (most is None or count <= most)


def _count(op: Op) -> str:
    """Return how many models an op takes, in words."""
    least, most = op.models
    if most is None:
        return f"{least} or more models"
    if least == most:
        return "one model" if most == 1 else f"{most} models"
    return f"{least} to {most} models"


def _selectors(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Yield the selectors in scheduled numbers, with the path of the map that they are keys of."""
    if isinstance(value, BySelector):
        yield from ((path, selector) for selector, _ in value.cases if selector != DEFAULT_SELECTOR)
    elif isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _selectors(getattr(value, name), (*path, field.alias or name))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _selectors(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _selectors(inner, (*path, i))
