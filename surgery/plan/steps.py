"""A step becomes a virtual model: for every tensor, an op on it, a copy of it, or a finding."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

from surgery.companion import Beside
from surgery.errors import PlanError
from surgery.ops import BASE, Description, Group, Made, Params, Signature, Space, Split
from surgery.plan.calibration import calibration_of
from surgery.plan.companions import Companions
from surgery.plan.nodes import Agree, Apply, Emitted, GroupCall, Member, Node, Scope
from surgery.plan.numbers import Numbers
from surgery.plan.problems import Problems
from surgery.plan.virtual import VirtualModel, annotate, renamed
from surgery.recipe.resolve_ops import ResolvedStep
from surgery.tensors import DTYPES, TensorInfo, TensorSpec


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor of one of the models that have it: the model's place in the step, its node and what it is."""

    index: int  # BASE for the base
    model: VirtualModel
    node: Node
    info: TensorInfo


@dataclass(slots=True)
class Expansion:
    """One step on its way to a virtual model."""

    step: ResolvedStep
    base: VirtualModel | None
    models: tuple[VirtualModel, ...]
    problems: Problems
    seed: int
    companions: Companions
    nodes: dict[str, Node] = field(default_factory=dict)
    specs: dict[str, TensorSpec] = field(default_factory=dict)
    changed: dict[str, Signature] = field(default_factory=dict)

    @property
    def path(self) -> tuple[str | int, ...]:
        """Return the step's place in the recipe."""
        return ("steps", self.step.name)

    @property
    def donor(self) -> VirtualModel:
        """Return the model that gives names, config and tokenizer: the base, else the first as written."""
        first = (model for model in self.models if model.name == self.step.first)
        return self.base or next(first, self.models[0])


def expand(
    step: ResolvedStep,
    base: VirtualModel | None,
    models: Sequence[VirtualModel],
    problems: Problems,
    seed: int,
    companions: Beside[VirtualModel],
) -> VirtualModel:
    """Return the virtual model that a step (of any op but a layout op) makes."""
    work = Expansion(step, base, tuple(models), problems, seed, Companions(step, companions, problems))
    _check_spaces(work)
    work.companions.check_spaces()
    if step.op.note:
        problems.warn(work.path, step.op.note)
    split = step.op.split_of(step.params)
    _Tensors(work, split).run()
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
    named = [(BASE, work.base), *enumerate(work.models)]
    for index, model in named:
        wanted = Space.WEIGHT if index == BASE else work.step.op.takes
        if model is not None and model.space != wanted:
            work.problems.add(
                work.path,
                f"`{work.step.op.name}` takes {_PLURAL[wanted]}, `{model.name}` holds {_PLURAL[model.space]}; "
                f"{_BEFORE.get(model.space, 'apply them to a base first')}",
            )


class _Tensors:
    """Goes through the tensors of a step's inputs, base first, and decides what becomes of each."""

    def __init__(self, work: Expansion, split: Split) -> None:
        self.work, self.split = work, split
        step, where, head = work.step, work.problems.recipe.where, work.problems.recipe.head_depth
        self.scopes: dict[Hashable, Scope] = {}
        self.calibration = calibration_of(step, work.models[0], work.problems) if step.op.needs else None
        self.groups: dict[Hashable, GroupCall] = {}
        self.simplified = False
        self.numbers = Numbers(step.params, where(work.path), ".".join(map(str, work.path)), head)
        self.each = [
            Numbers(
                params,
                where((*work.path, "models", model.name)),
                f"steps.{step.name}.models.{model.name}",
                head,
            )
            for params, model in zip(step.each, work.models, strict=False)
        ]

    def run(self) -> None:
        """Decide for every tensor; then report what never matched."""
        work, recipe = self.work, self.work.problems.recipe
        matched = work.step.where is None
        for name in self._names():
            operands = self._operands(name)
            if operands is None:
                continue
            info = operands[0].info
            if work.step.where is not None and not work.step.where.matches(info):
                self._copy(name, operands[0])
                continue
            matched = True
            self._decide(name, info, operands)
        if not matched:
            work.problems.add(
                (*work.path, "where"), "selects no tensor; see the names with `surgery inspect`"
            )
        idle = work.problems.warnings if recipe.on_unmatched == "warn" else work.problems.findings
        for numbers in [self.numbers, *self.each]:
            idle.extend(numbers.idle())
            work.problems.findings.extend(numbers.missing())
        self._close_groups()
        self._check_scopes()
        work.companions.close()

    def _check_scopes(self) -> None:
        """Refuse numbers that differ between tensors that are gathered from together."""
        for scope in self.scopes.values():
            first, *others = scope.members
            given = first.params, first.signature.each
            if any((member.params, member.signature.each) != given for member in others):
                what = "a ramp or a map of selectors has no meaning for tensors that share a statistic"
                self.work.problems.add(
                    self.work.path, f"{what}; write numbers, or choose tensors that do not with `where:`"
                )
                return

    def _scope(self, signature: Signature, params: Params) -> Scope | None:
        """Return the scope that a tensor of a MODEL op is gathered in."""
        if self.split is not Split.MODEL:
            return None
        pool = self.work.step.op.pool
        key = pool(signature, params) if pool else None
        return self.scopes.setdefault(key, Scope(self.work.step.name))

    def _names(self) -> list[str]:
        """Return the tensors of all inputs: the base's in its order, then what others add."""
        seen: dict[str, None] = {}
        for model in ([self.work.base] if self.work.base else []) + list(self.work.models):
            seen.update(dict.fromkeys(model.tensors))
        return list(seen)

    def _operands(self, name: str) -> list[Operand] | None:
        """Return who has the tensor, base first; None after settling what happens when some lack it."""
        work = self.work
        inputs = ([(BASE, work.base)] if work.base else []) + list(enumerate(work.models))
        have: list[Operand] = []
        lack: list[str] = []
        for index, model in inputs:
            node, info = model.node(name), model.info(name)
            if node is None or info is None:
                lack.append(model.name)
            else:
                have.append(Operand(index, model, node, info))
        if not lack:
            return have
        if work.step.op.partial:
            self._lacking(name, have[0])
            return None
        if work.step.missing == "skip" and self.split is Split.MODEL:
            where = ", ".join(f"`{model}`" for model in lack)
            what = f"tensor {name} is missing in {where}, `scope: model` needs it everywhere; set `missing: base`"
            work.problems.add_tensor(work.path, f"missing {lack}", what, name)
            return None
        if work.step.missing == "skip" and (work.base is None or have[0].index == BASE):
            if have[-1].index != BASE:
                return have
            self._copy(name, have[0])
            return None
        if work.step.missing == "base":
            self._copy(name, have[0])
            return None
        owners = ", ".join(f"`{operand.model.name}`" for operand in have)
        what = f"tensor {name} is missing in {', '.join(f'`{m}`' for m in lack)}, {owners} has it"
        advice = "set `missing: skip` to use the models that have it, or `missing: base` to copy it"
        work.problems.add_tensor(work.path, f"missing {lack}", f"{what}; {advice}", name)
        return None

    def _lacking(self, name: str, have: Operand) -> None:
        """Copy what the models need not have; refuse what they have besides."""
        if have.index == BASE:
            self._copy(name, have)
            return
        what = f"`{have.model.name}` has {name}, which the base lacks; it was made for another model"
        self.work.problems.add_tensor(self.work.path, f"besides {have.index}", what, name)

    def _copy(self, name: str, operand: Operand) -> None:
        """Pass a tensor on unchanged, or leave out what the op does not work on."""
        if self.work.step.op.rest == "copy":
            self._put(name, operand.node, operand.info.spec)

    def _put(self, name: str, node: Node, spec: TensorSpec) -> None:
        self.work.nodes[name] = node
        self.work.specs[name] = spec if spec.name == name else spec.with_(name=name)

    def _decide(self, name: str, info: TensorInfo, operands: list[Operand]) -> None:
        specs = [operand.info.spec for operand in operands]
        if self.work.step.op.shapes == "same" and not self._same_shapes(name, operands):
            return
        stored = next((operand.node for operand in operands if isinstance(operand.node, Emitted)), None)
        if stored is not None:
            op, maker = self.work.step.op.name, stored.call
            what = f"`{op}` computes with what `{maker.op.name}` stores; put it before step `{maker.step}`"
            self.work.problems.add_tensor(self.work.path, what, f"{name}: {what}", name)
            return
        if not all(self._computable(spec) for spec in specs):
            self._agree(name, operands)
        elif self.work.step.op.vectors == "skip" and len(info.spec.shape) < 2:
            self._copy(name, operands[0])
        else:
            self._apply(name, info, operands)

    def _computable(self, spec: TensorSpec) -> bool:
        mask = spec.dtype == "BOOL" and self.work.step.op.takes is Space.MASK
        return mask or DTYPES[spec.dtype].arithmetic

    def _same_shapes(self, name: str, operands: list[Operand]) -> bool:
        first = operands[0]
        for other in operands[1:]:
            if other.info.spec.shape != first.info.spec.shape:
                a, b = first.info.spec, other.info.spec
                role = first.info.role.kind
                vocabulary = role in ("embed", "head")
                equal = "make the vocabularies equal with `stitch.tokenizer` or `stitch.resize_vocab`"
                advice = equal if vocabulary else "merge models of one size"
                self.work.problems.add_tensor(
                    self.work.path,
                    f"shape {first.model.name} {other.model.name}",
                    f"`{first.model.name}` and `{other.model.name}` differ at {name}: "
                    f"{a.shape} and {b.shape}; {advice}",
                    name,
                )
                return False
        return True

    def _agree(self, name: str, operands: list[Operand]) -> None:
        """Copy a tensor without arithmetic; quantized codes of several models cannot be combined."""
        first, others = operands[0], operands[1:]
        if self.work.step.op.rest == "drop":
            return
        dtypes = {operand.info.spec.dtype for operand in operands}
        if DTYPES[first.info.spec.dtype].floating or len(dtypes) > 1:
            self.work.problems.add_tensor(
                self.work.path,
                f"dtype {sorted(dtypes)}",
                f"tensor {name} is stored as {' and '.join(sorted(dtypes))}, no arithmetic is defined on it; "
                "dequantize the models first, or leave it out with `where:`",
                name,
            )
            return
        spec = first.info.spec
        if others and self.work.problems.recipe.on_int == "error":
            self._put(name, Agree(self.work.step.name, first.node, tuple(o.node for o in others), spec), spec)
        else:
            self._put(name, first.node, spec)

    def _apply(self, name: str, info: TensorInfo, operands: list[Operand]) -> None:
        work, op = self.work, self.work.step.op
        base = next((operand for operand in operands if operand.index == BASE), None)
        models = [operand for operand in operands if operand.index != BASE]
        signature = Signature(
            name=name,
            models=tuple(operand.info.spec for operand in models),
            base=base.info.spec if base else None,
            each=tuple(self.each[operand.index].at(info) for operand in models) if self.each else (),
            role=info.role,
            numel=info.spec.numel,
            places=tuple(o.index for o in models) if len(models) < len(work.models) else (),
        )
        params = self.numbers.at(info)
        beside: Beside[Node] = {}
        if op.companions:
            specs, beside = work.companions.of(signature, params, self.split)
            signature = replace(signature, companions=specs)
        wrong = op.check(signature, params) if op.check else None
        if wrong:
            work.problems.add_tensor(work.path, wrong.partition(";")[0], f"{name}: {wrong}", name)
            return
        same = op.simplify(signature, params) if op.simplify else None
        if same is not None:
            operand = base if same == BASE else models[same]
            assert operand is not None
            self.simplified = True
            self._copy(name, operand)
            return
        self._call(name, info, signature, params, base, models, beside)

    def _call(
        self,
        name: str,
        info: TensorInfo,
        signature: Signature,
        params: Params,
        base: Operand | None,
        models: list[Operand],
        beside: Beside[Node],
    ) -> None:
        work, op = self.work, self.work.step.op
        parts = tuple(op.emits(signature, params)) if op.emits else ()
        spec = signature.first if parts else op.output(signature, params)
        node = Apply(
            step=work.step.name,
            op=op,
            split=self.split,
            params=params,
            signature=signature,
            models=tuple(operand.node for operand in models),
            base=base.node if base else None,
            spec=spec,
            seed=work.seed,
            scope=self._scope(signature, params),
            calibration=self.calibration,
            parts=parts,
            companions=beside,
        )
        work.changed[name] = signature
        if self.calibration is not None:
            self.calibration.members[name] = node
        if node.scope is not None:
            node.scope.members.append(node)
        if self.split is Split.GROUP:
            self._join(name, info, node, models[0])
        elif parts:
            self._emit(node)
        else:
            self._put(name, node, spec)

    def _emit(self, call: Apply) -> None:
        """Put the several tensors that an op makes of one in its place."""
        for part in call.parts:
            if part.spec.name in self.work.nodes:
                what = f"`{call.op.name}` makes {part.spec.name}, a tensor of that name is there already"
                self.work.problems.add(self.work.path, f"{what}; rename it first")
            self._put(part.spec.name, Emitted(call, part.spec), part.spec)

    def _join(self, name: str, info: TensorInfo, node: Apply, operand: Operand) -> None:
        """Put a tensor into its group, or leave it as it is when it has none."""
        implementation = self.work.step.op.implementation
        assert isinstance(implementation, Group)
        key = implementation.key(info, node.params)
        if key is None:
            self._copy(name, operand)
            return
        if key not in self.groups:
            step = self.work.step
            self.groups[key] = GroupCall(step.name, step.op, step.params, self.work.seed, {})
        group = self.groups[key]
        group.members[name] = node
        self._put(name, Member(group, name, node.spec), node.spec)

    def _close_groups(self) -> None:
        if self.split is Split.GROUP and not (self.groups or self.simplified):
            self.work.problems.add(
                self.work.path, "no tensor belongs to a group; check `where:` and the model type"
            )
