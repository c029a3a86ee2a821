"""An op's calls on the tensors of a step: parameters of each tensor, and what calls share (scopes, groups)."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import replace

from surgery.companion import Beside
from surgery.ops import BASE, Group, Params, Signature, Split
from surgery.plan.calibration import calibration_of
from surgery.plan.expansion import Expansion, Operand
from surgery.plan.nodes import Apply, Emitted, GroupCall, Member, Node, Scope
from surgery.plan.numbers import Numbers
from surgery.tensors import TensorInfo


class Calls:
    """Makes an op's calls, tensor by tensor; `close` tells what only all of them together show."""

    def __init__(self, work: Expansion) -> None:
        self._work = work
        step, where, head = work.step, work.problems.recipe.where, work.problems.recipe.head_depth
        self._numbers = Numbers(step.params, where(work.path), ".".join(map(str, work.path)), head)
        self._each = [
            Numbers(
                params,
                where((*work.path, "models", model.name)),
                f"steps.{step.name}.models.{model.name}",
                head,
            )
            for params, model in zip(step.each, work.models, strict=False)
        ]
        self._calibration = calibration_of(step, work.models[0], work.problems) if step.op.needs else None
        self._scopes: dict[Hashable, Scope] = {}
        self._groups: dict[Hashable, GroupCall] = {}
        self._simplified = False

    def add(self, name: str, info: TensorInfo, operands: list[Operand]) -> None:
        """Make the op's call on a tensor; where the op has nothing to do, copy the tensor."""
        work, op = self._work, self._work.step.op
        base = next((operand for operand in operands if operand.index == BASE), None)
        models = [operand for operand in operands if operand.index != BASE]
        signature, params = self._signature(name, info, base, models), self._numbers.at(info)
        beside: Beside[Node] = {}
        if op.companions:
            specs, beside = work.companions.of(signature, params, work.split)
            signature = replace(signature, companions=specs)
        wrong = op.check(signature, params) if op.check else None
        if wrong:
            work.refuse(name, wrong.partition(";")[0], f"{name}: {wrong}")
            return
        same = op.simplify(signature, params) if op.simplify else None
        if same is not None:
            operand = base if same == BASE else models[same]
            assert operand is not None
            self._simplified = True
            work.copy(name, operand)
            return
        node = self._call(signature, params, base, models, beside)
        if work.split is Split.GROUP:
            self._join(name, info, node, models[0])
        elif node.parts:
            self._emit(node)
        else:
            work.put(name, node, node.spec)

    def close(self, seen: Collection[TensorInfo]) -> None:
        """Tell what matched none of the tensors that were seen; refuse what tensors of one group do not share."""
        problems = self._work.problems
        idle = problems.warnings if problems.recipe.on_unmatched == "warn" else problems.findings
        for numbers in [self._numbers, *self._each]:
            idle.extend(numbers.idle(seen))
            idle.extend(numbers.overrun(seen) if self._work.whole else ())
            problems.findings.extend(numbers.missing())
        self._check_groups()
        self._check_scopes()

    def _signature(
        self, name: str, info: TensorInfo, base: Operand | None, models: list[Operand]
    ) -> Signature:
        return Signature(
            name=name,
            models=tuple(operand.info.spec for operand in models),
            base=base.info.spec if base else None,
            each=tuple(self._each[operand.index].at(info) for operand in models) if self._each else (),
            role=info.role,
            numel=info.spec.numel,
            places=tuple(o.index for o in models) if len(models) < len(self._work.models) else (),
        )

    def _call(
        self,
        signature: Signature,
        params: Params,
        base: Operand | None,
        models: list[Operand],
        beside: Beside[Node],
    ) -> Apply:
        """Return the call's node, known to the scope and calibration that it belongs to."""
        work, op = self._work, self._work.step.op
        parts = tuple(op.emits(signature, params)) if op.emits else ()
        node = Apply(
            step=work.step.name,
            op=op,
            split=work.split,
            params=params,
            signature=signature,
            models=tuple(operand.node for operand in models),
            base=base.node if base else None,
            spec=signature.first if parts else op.output(signature, params),
            seed=work.seed,
            scope=self._scope(signature, params),
            calibration=self._calibration,
            parts=parts,
            companions=beside,
        )
        work.changed[signature.name] = signature
        if self._calibration is not None:
            self._calibration.members[signature.name] = node
        if node.scope is not None:
            node.scope.members.append(node)
        return node

    def _scope(self, signature: Signature, params: Params) -> Scope | None:
        """Return the scope that a tensor of a MODEL op is gathered in."""
        if self._work.split is not Split.MODEL:
            return None
        pool = self._work.step.op.pool
        key = pool(signature, params) if pool else None
        return self._scopes.setdefault(key, Scope(self._work.step.name))

    def _check_scopes(self) -> None:
        """Refuse numbers that differ between tensors that are gathered from together."""
        for scope in self._scopes.values():
            first, *others = scope.members
            given = first.params, first.signature.each
            if any((member.params, member.signature.each) != given for member in others):
                what = "a ramp or a map of selectors has no meaning for tensors that share a statistic"
                self._work.problems.add(
                    self._work.path, f"{what}; write numbers, or choose tensors that do not with `where:`"
                )
                return

    def _emit(self, call: Apply) -> None:
        """Put the several tensors that an op makes of one in its place."""
        for part in call.parts:
            if part.spec.name in self._work.nodes:
                what = f"`{call.op.name}` makes {part.spec.name}, a tensor of that name is there already"
                self._work.problems.add(self._work.path, f"{what}; rename it first")
            self._work.put(part.spec.name, Emitted(call, part.spec), part.spec)

    def _join(self, name: str, info: TensorInfo, node: Apply, operand: Operand) -> None:
        """Put a tensor into its group, or leave it as it is when it has none."""
        step, implementation = self._work.step, self._work.step.op.implementation
        assert isinstance(implementation, Group)
        key = implementation.key(info, node.params)
        if key is None:
            self._work.copy(name, operand)
            return
        if key not in self._groups:
            self._groups[key] = GroupCall(step.name, step.op, step.params, self._work.seed, {})
        group = self._groups[key]
        group.members[name] = node
        self._work.put(name, Member(group, name, node.spec), node.spec)

    def _check_groups(self) -> None:
        if self._work.split is Split.GROUP and not (self._groups or self._simplified):
            what = "no tensor belongs to a group; check `where:` and the model type"
            self._work.problems.add(self._work.path, what)
