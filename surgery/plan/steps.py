"""A step becomes a virtual model: for every tensor, an op on it, a copy of it, or a finding."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.companion import Beside
from surgery.errors import PlanError
from surgery.ops import BASE, Description, Made, Space
from surgery.plan.calls import Calls
from surgery.plan.companions import Companions
from surgery.plan.expansion import Expansion, Operand
from surgery.plan.nodes import Apply, Emitted, Member
from surgery.plan.operands import combinable, operands_of
from surgery.plan.problems import Problems
from surgery.plan.virtual import VirtualModel, annotate, renamed
from surgery.recipe.resolve_ops import ResolvedStep
from surgery.recipe.select import Selection, meant, overrun
from surgery.tensors import TensorInfo


def expand(
    step: ResolvedStep,
    base: VirtualModel | None,
    models: Sequence[VirtualModel],
    problems: Problems,
    seed: int,
    companions: Beside[VirtualModel],
) -> VirtualModel:
    """Return the virtual model that a step (of any op but a layout op) makes."""
    held = Companions(step, companions, problems)
    work = Expansion(step, step.op.split_of(step.params), base, tuple(models), problems, seed, held)
    _check_spaces(work)
    work.companions.check_spaces()
    if step.op.note:
        problems.warn(work.path, step.op.note)
    _fill(work)
    infos = annotate(work.specs, work.donor.architecture)
    tied = {alias: name for alias, name in work.donor.tied.items() if alias not in infos and name in infos}
    return renamed(
        work.donor,
        step.name,
        tensors=infos,
        nodes=work.nodes,
        tied=tied,
        space=step.op.gives,
        **_described(work, infos),
    )


def _described(work: Expansion, infos: dict[str, TensorInfo]) -> dict[str, object]:
    """Return config and file names of the result, as the op describes it or as its input has them."""
    config = _untied(work, infos)
    if work.step.op.describe is None:
        return {"config": config}
    kept = {
        name: info
        for name, info in infos.items()
        if not isinstance(work.nodes[name], Apply | Emitted | Member)
    }
    made = Made(config, work.donor.donor.location, work.changed, kept, work.donor.tied)
    try:
        said: Description = work.step.op.describe(made, work.step.params)
    except PlanError as error:
        for finding in error.findings:
            work.problems.add(work.path, finding.what)
        return {"config": config}
    return {
        "config": dict(said.config),
        "config_file": said.config_file,
        "stem": said.stem,
        "bare": not said.sidecars,
        "relation": said.relation,
        "library": said.library,
    }


def _untied(work: Expansion, infos: dict[str, TensorInfo]) -> dict[str, object]:
    """Return the donor's config; a head that this step wrote out is no longer tied."""
    config = dict(work.donor.config)
    if any(alias in infos for alias in work.donor.tied) and "tie_word_embeddings" in config:
        config["tie_word_embeddings"] = False
    return config


_PLURAL = {
    Space.WEIGHT: "weights",
    Space.DELTA: "deltas",
    Space.FACTORS: "factors",
    Space.PACKED: "packed tensors",
    Space.MASK: "masks",
    Space.STATISTIC: "statistics",
}
_BEFORE = {Space.PACKED: "do it before they are packed", Space.MASK: "apply it to a model first"}


def _check_spaces(work: Expansion) -> None:
    for index, model in work.inputs:
        wanted = Space.WEIGHT if index == BASE else work.step.op.takes
        if model.space != wanted:
            work.problems.add(
                work.path,
                f"`{work.step.op.name}` takes {_PLURAL[wanted]}, `{model.name}` holds {_PLURAL[model.space]}; "
                f"{_BEFORE.get(model.space, 'apply them to a base first')}",
            )


def _fill(work: Expansion) -> None:
    """Decide what becomes of every tensor of the inputs; then report what never matched."""
    where, calls = work.step.where, Calls(work)
    matched, seen = where is None, []
    for name in _names(work):
        operands = operands_of(work, name)
        if operands is None:
            continue
        info = operands[0].info
        seen.append(info)
        if where is not None and not where.matches(info):
            work.copy(name, operands[0])
            continue
        matched = True
        _decide(work, calls, name, operands)
    if where is not None:
        _check_where(work, where, seen, matched=matched)
    calls.close(seen)
    work.companions.close()


def _check_where(work: Expansion, where: Selection, seen: Sequence[TensorInfo], *, matched: bool) -> None:
    """Refuse selectors that mean nothing: what stands in a list beside others would be passed over in silence."""
    path, texts, idle = (*work.path, "where"), where.texts, where.idle(seen)
    add = work.problems.warn if work.problems.recipe.on_unmatched == "warn" else work.problems.add
    if not matched:
        work.problems.add(path, f"selects no tensor; {meant(texts[idle[0]] if idle else '', seen)}")
        return
    for i, text in enumerate(texts):
        past = overrun(text, seen) if work.whole else ""
        if i in idle or past:
            what = (
                f"matches no tensor; {meant(text, seen)}"
                if i in idle
                else f"goes past the last layer; {past}"
            )
            add((*path, i) if len(texts) > 1 else path, f"selector `{text}` {what}")


def _names(work: Expansion) -> list[str]:
    """Return the tensors of all inputs: the base's in its order, then what others add."""
    return list(dict.fromkeys(name for _, model in work.inputs for name in model.tensors))


def _decide(work: Expansion, calls: Calls, name: str, operands: list[Operand]) -> None:
    info = operands[0].info
    if not combinable(work, name, operands):
        return
    if work.step.op.vectors == "skip" and len(info.spec.shape) < 2:
        work.copy(name, operands[0])
    else:
        calls.add(name, info, operands)
