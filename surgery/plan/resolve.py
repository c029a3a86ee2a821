"""The way from a recipe to a plan: open headers, expand steps in order, check, collect the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import networkx as nx

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.open import open_adapter, open_checkpoint
from surgery.checkpoint.rounded import RoundedCheckpoint
from surgery.errors import CheckpointError, PlanError, PluginError
from surgery.host import Host
from surgery.ops import Split
from surgery.plan.destinations import check_destinations
from surgery.plan.layouts import expand_layout
from surgery.plan.model import Output, OutputTensor, Plan, reads, step_graph
from surgery.plan.nodes import Emitted
from surgery.plan.places import Place, place_of
from surgery.plan.problems import Problems
from surgery.plan.steps import expand
from surgery.plan.virtual import VirtualModel, from_checkpoint
from surgery.plan.vocabulary import difference
from surgery.recipe.model import Output as RecipeOutput
from surgery.recipe.model import Recipe
from surgery.recipe.resolve_ops import ResolvedStep, resolve_steps
from surgery.tensors import DTYPES, STORED_FLOATS


def resolve(
    recipe: Recipe,
    host: Host,
    *,
    out: Path | None = None,
    force: bool = False,
    write: bool = True,
    opened: Mapping[str, Checkpoint] = MappingProxyType({}),
) -> Plan:
    """Return the checked plan of a recipe, from headers alone.

    out    where the (only) output goes, instead of its `to:`
    force  finished outputs may be replaced
    write  False: nothing will be written, so destinations are not looked at
    opened models by name that need not be opened again

    Raises RecipeError, PlanError (all findings at once), CheckpointError, PluginError.
    """
    problems = Problems(recipe)
    steps = resolve_steps(recipe, host.op, host.op_names)
    needed = _needed(recipe, steps)
    checkpoints = _open(recipe, host, needed, opened, problems)
    problems.raise_any()
    models = _models(recipe, host, steps, needed, checkpoints, problems)
    problems.raise_any()
    places = {
        name: place_of(recipe, wanted, out, host.destinations) for name, wanted in _outputs(recipe).items()
    }
    outputs = tuple(_output(recipe, name, models, out, places[name], problems, write) for name in places)
    if write:
        check_destinations(outputs, checkpoints.values(), problems, force=force)
    problems.raise_any()
    plan = Plan(recipe, steps, models, checkpoints, outputs, (*recipe.warnings, *problems.warnings))
    return host.rewrite_plan(plan, _checked)


def _outputs(recipe: Recipe) -> Mapping[str, RecipeOutput]:
    """Return the outputs by name; a recipe with one output calls it `output`."""
    return recipe.outputs or ({"output": recipe.output} if recipe.output else {})


def _needed(recipe: Recipe, steps: Mapping[str, ResolvedStep]) -> list[str]:
    """Return the models and steps that outputs depend on, in an order in which they can be made."""
    graph = step_graph(steps, recipe.models)
    wanted = {output.model for output in _outputs(recipe).values()}
    wanted |= {name for target in list(wanted) for name in nx.ancestors(graph, target)}
    wanted |= {output.tokenizer for output in _outputs(recipe).values() if output.tokenizer}
    return [name for name in nx.lexicographical_topological_sort(graph) if name in wanted]


def _open(
    recipe: Recipe, host: Host, needed: list[str], before: Mapping[str, Checkpoint], problems: Problems
) -> dict[str, Checkpoint]:
    """Open the headers of all models that are needed; each folder once, those opened before not again."""
    formats, schemes = host.formats(), host.schemes()
    opened: dict[tuple[str, bool], Checkpoint] = {}
    checkpoints: dict[str, Checkpoint] = {}
    for name in needed:
        if name not in recipe.models:
            continue
        if name in before:
            checkpoints[name] = before[name]
            continue
        source = recipe.models[name].source
        key = source, recipe.models[name].decode
        try:
            if key not in opened:
                found = open_checkpoint(source, recipe.folder, formats, schemes)
                opened[key] = host.decoded(found) if recipe.models[name].decode else found
            checkpoints[name] = opened[key]
        except CheckpointError as error:
            problems.add(("models", name), str(error))
            continue
        adapter = recipe.models[name].adapter
        if adapter is not None:
            folded = _fold(recipe, host, name, adapter, opened[key], problems)
            checkpoints[name] = folded or opened[key]
        dtype = recipe.models[name].dtype
        if dtype is not None:
            checkpoints[name] = RoundedCheckpoint(checkpoints[name], STORED_FLOATS[dtype])
    return checkpoints


def _fold(
    recipe: Recipe, host: Host, name: str, adapter: str, base: Checkpoint, problems: Problems
) -> Checkpoint | None:
    """Return a base with an adapter folded in; None after noting what stands against it."""
    path = ("models", name, "adapter")
    try:
        return open_adapter(adapter, recipe.folder, base, host.adapters(), host.schemes())
    except CheckpointError as error:
        problems.add(path, str(error))
    except PlanError as error:
        for finding in error.findings:
            problems.add(path, finding.what)
    return None


def _models(
    recipe: Recipe,
    host: Host,
    steps: Mapping[str, ResolvedStep],
    needed: list[str],
    checkpoints: Mapping[str, Checkpoint],
    problems: Problems,
) -> dict[str, VirtualModel]:
    architectures = host.architectures()
    models: dict[str, VirtualModel] = {}
    for name in needed:
        if name in checkpoints:
            models[name] = from_checkpoint(name, checkpoints[name], architectures)
            continue
        step = steps[name]
        if any(source not in models for source in reads(step)):
            continue  # what it reads has findings of its own
        made = _step(step, models, problems, recipe.seed)
        if made is not None:
            models[name] = made
    return models


def _step(
    step: ResolvedStep, models: Mapping[str, VirtualModel], problems: Problems, seed: int
) -> VirtualModel | None:
    inputs = [models[name] for name in step.models]
    if step.op.split_of(step.params) is Split.LAYOUT:
        return expand_layout(step, [models[name] for name in reads(step)], problems, seed)
    base = models[step.base] if step.base else None
    _check_tokens(step, [*([base] if base else []), *inputs], problems)
    companions = {
        key: tuple(models[name] if name else None for name in names) for key, names in step.companions.items()
    }
    return expand(step, base, inputs, problems, seed, companions)


_ONE_VOCABULARY = (
    "give them one with `stitch.tokenizer`, or set `tokenizer: accept` in the step if that is meant"
)


def _check_tokens(step: ResolvedStep, inputs: list[VirtualModel], problems: Problems) -> None:
    """Models with different tokenizers are not merged unless the step says that it is meant."""
    for other in inputs[1:]:
        found = difference(inputs[0], other)
        if found and step.tokenizer == "accept":
            problems.warn(("steps", step.name), found)
        elif found:
            problems.add(("steps", step.name), f"{found}; {_ONE_VOCABULARY}")


def _output(
    recipe: Recipe,
    name: str,
    models: Mapping[str, VirtualModel],
    out: Path | None,
    place: Place,
    problems: Problems,
    write: bool,
) -> Output:
    wanted = _outputs(recipe)[name]
    path = ("outputs", name) if recipe.outputs else ("output",)
    model = models[wanted.model]
    stored = STORED_FLOATS[wanted.dtype] if wanted.dtype else None
    tensors = []
    for tensor, node in model.nodes.items():
        spec = model.tensors[tensor].spec
        # what an op emits is stored as the op says: scales belong to their codes
        fixed = isinstance(node, Emitted) or not DTYPES[spec.dtype].arithmetic
        dtype = stored if stored and not fixed else spec.dtype
        tensors.append(OutputTensor(spec.with_(dtype=dtype), node))
    if write and wanted.to is None and out is None:
        problems.add(path, "says not where to write; add `to: FOLDER` or pass --out FOLDER")
    for key, what in place.problems if write else ():
        problems.add((*path, key), what)
    if not tensors:
        problems.add(path, f"`{wanted.model}` holds no tensors; choose another model")
    if out is not None and recipe.outputs and len(recipe.outputs) > 1:
        problems.add(path, "--out names one folder, the recipe has several outputs; give each a `to:`")
    beside = models[wanted.tokenizer] if wanted.tokenizer else model
    return Output(
        name=name,
        model=wanted.model,
        folder=place.folder,
        target=place.target,
        tensors=tuple(tensors),
        config=model.config,
        sidecars={} if model.bare and wanted.tokenizer is None else beside.sidecars,
        shard_size=wanted.shard_size,
        stem=model.stem,
        config_file=model.config_file,
        relation=model.relation,
        library=model.library,
    )


def _checked(plan: Plan, plugin: str) -> Plan:
    """Hold a plan that a plugin rewrote to what the executor relies on."""
    for output in plan.outputs:
        names = [tensor.spec.name for tensor in output.tensors]
        if len(set(names)) < len(names):
            raise PluginError(
                f"{plugin}: surgery_rewrite_plan repeats a tensor of {output.name}; mend the plugin"
            )
        for tensor in output.tensors:
            if tensor.spec.shape != tensor.node.spec.shape:
                raise PluginError(
                    f"{plugin}: surgery_rewrite_plan writes {tensor.spec.name} as {tensor.spec.shape}, "
                    f"it is computed as {tensor.node.spec.shape}; mend the plugin"
                )
    return plan
