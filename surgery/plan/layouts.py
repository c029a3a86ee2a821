"""A layout step becomes a virtual model: tensors under new names, a rewritten config, no bytes moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from surgery.errors import PlanError, PluginError, did_you_mean
from surgery.ops import BASE, Call, Layout, ModelView, Piece, Reading, Signature, Split, Stack, Take
from surgery.plan.calibration import OF_PROMPTS, prompt_run, require_layer
from surgery.plan.nodes import Apply, Emitted, Node, PromptRun, Rows, Stacked
from surgery.plan.problems import Problems
from surgery.plan.stretches import Stretches, stretches
from surgery.plan.virtual import VirtualModel, annotate, layer_count, renamed
from surgery.recipe.resolve_ops import ResolvedStep
from surgery.tensors import DTYPES, TensorSpec, promote


def expand_layout(
    step: ResolvedStep, models: Sequence[VirtualModel], problems: Problems, seed: int
) -> VirtualModel | None:
    """Return the virtual model that a layout op makes of some models (the base first); None if that is not possible.

    What is wrong is noted in `problems`.
    """
    path = ("steps", step.name)
    known = {model.name: model for model in models}
    try:
        layout: Layout = step.op.implementation({model.name: _view(model) for model in models}, step.params)
        donor = known.get(layout.donor or models[0].name)
        if donor is None:
            named = f"`{step.op.name}` names `{layout.donor}` as donor"
            raise PlanError(f"{named}, which is none of its models")
        pieces = _Pieces(step, known, donor, seed)
        placed = {name: pieces.place(name, piece) for name, piece in layout.tensors.items()}
    except PlanError as error:
        for finding in error.findings:
            problems.add(path, finding.what)
        return None
    infos = annotate({name: spec for name, (_, spec) in placed.items()}, donor.architecture)
    tied = {alias: name for alias, name in donor.tied.items() if alias not in infos and name in infos}
    return renamed(
        donor,
        step.name,
        tensors=infos,
        nodes={name: node for name, (node, _) in placed.items()},
        config=dict(layout.config),
        layers=layer_count(infos),
        tied=tied,
        files=donor.files if layout.files is None else dict(layout.files),
    )


def _view(model: VirtualModel) -> ModelView:
    return ModelView(
        name=model.name,
        tensors=MappingProxyType(model.tensors),
        config=MappingProxyType(dict(model.config)),
        layers=model.layers,
        rename_layer=model.architecture.rename_layer,
        files=model.sidecars,
        tied=MappingProxyType(model.tied),
    )


Placed = tuple[Node, TensorSpec]


@dataclass(slots=True)
class _Pieces:
    """Turns what a layout op says of its tensors into nodes; a piece that is used twice becomes one node."""

    step: ResolvedStep
    known: Mapping[str, VirtualModel]
    donor: VirtualModel
    seed: int
    made: dict[int, Placed] = field(default_factory=dict)
    indices: dict[tuple[int, tuple[int, ...]], Stretches] = field(default_factory=dict)
    runs: dict[tuple[str, tuple[tuple[int, ...], ...]], PromptRun] = field(default_factory=dict)

    def place(self, name: str, piece: Piece) -> Placed:
        """Return node and spec of a piece for output tensor `name`; PlanError if it cannot be had."""
        if id(piece) not in self.made:
            match piece:
                case Take():
                    self.made[id(piece)] = self._take(name, piece)
                case Stack():
                    self.made[id(piece)] = self._stack(name, piece)
                case Call():
                    self.made[id(piece)] = self._call(name, piece)
        node, spec = self.made[id(piece)]
        return node, spec.with_(name=name)

    def _take(self, name: str, take: Take) -> Placed:
        model = self.known.get(take.model)
        node = model.node(take.name) if model else None
        info = model.info(take.name) if model else None
        if model is None or node is None or info is None:
            near = did_you_mean(take.name, model.tensors) if model else did_you_mean(take.model, self.known)
            raise PlanError(f"{name}: takes {take.name} of `{take.model}`, which has no such tensor{near}")
        spec = info.spec
        if take.rows is None:
            return node, spec
        if isinstance(node, Emitted):
            what = f"{name}: takes rows of {take.name}, which step {node.call.step} stores as a whole"
            raise PlanError(f"{what}; cut before that step")
        first, last = take.rows
        if not (spec.shape and 0 <= first < last <= spec.shape[0]):
            what = f"{name}: takes rows {first} to {last} of {take.name}, got shape {spec.shape}"
            raise PlanError(f"{what}; give rows inside it")
        cut = TensorSpec(name, (last - first, *spec.shape[1:]), spec.dtype)
        return Rows(node, first * spec.row, cut), cut

    def _stack(self, name: str, stack: Stack) -> Placed:
        """Return any rows of several parts; a part as it is, or a stretch of it, where that is all there is to it."""
        parts = self._floats(name, stack.parts)
        if not parts or any(not spec.shape or spec.shape[1:] != parts[0][1].shape[1:] for _, spec in parts):
            raise PlanError(f"{name}: stacks {_shapes(parts)}; stack parts whose rows have one shape")
        lengths = tuple(spec.shape[0] for _, spec in parts)
        found = self._stretches(name, stack, lengths)
        spec = TensorSpec(name, (found.count, *parts[0][1].shape[1:]), promote([s.dtype for _, s in parts]))
        if len(found) == 1 and found.count:
            (node, part), row = parts[found.parts[0]], found.rows[0]
            cut = part if part.shape == spec.shape else TensorSpec(name, spec.shape, part.dtype)
            return (node if cut is part else Rows(node, row * part.row, cut)), cut
        return Stacked(self.step.name, self.step.op.name, tuple(n for n, _ in parts), found, spec), spec

    def _stretches(self, name: str, stack: Stack, lengths: tuple[int, ...]) -> Stretches:
        """Return a stack's stretches; those of one index are made once for all tensors."""
        key = id(stack.index), lengths
        if key not in self.indices:
            try:
                self.indices[key] = stretches(lengths, stack.index)
            except ValueError as error:
                raise PlanError(f"{name}: takes {error}; give rows inside the parts") from None
        return self.indices[key]

    def _floats(self, name: str, pieces: Sequence[Piece]) -> list[Placed]:
        """Return placed parts that arithmetic is done with."""
        parts = [self.place(name, piece) for piece in pieces]
        for node, spec in parts:
            if isinstance(node, Emitted) or not DTYPES[spec.dtype].arithmetic:
                stored = "what a step packs" if isinstance(node, Emitted) else f"a tensor of {spec.dtype}"
                raise PlanError(f"{name}: takes rows of {stored}; do it before that, or dequantize the model")
        return parts

    def _call(self, name: str, call: Call) -> Placed:
        op = call.op
        params = op.params() if call.params is None else call.params
        split = op.split_of(params)
        parts = self._floats(name, call.parts)
        if split not in _CALLED or op.emits or not _needs_are_met(call):
            raise PluginError(f"op `{op.name}`: cannot be called by a layout op; see `surgery.layout.Call`")
        if split is not Split.TENSOR and any(spec.shape != parts[0][1].shape for _, spec in parts):
            raise PlanError(f"{name}: `{op.name}` is called on {_shapes(parts)}; give it parts of one shape")
        specs = tuple(spec for _, spec in parts)
        role = self.donor.architecture.role_of(name)
        signature = Signature(name, specs, None, (), role, specs[0].numel)
        wrong = op.check(signature, params) if op.check else None
        if wrong:
            raise PlanError(f"{name}: {wrong}")
        same = op.simplify(signature, params) if op.simplify else None
        if same is not None and same != BASE:
            return parts[same]
        spec = op.output(signature, params)
        nodes = tuple(node for node, _ in parts)
        read = None if call.reading is None else self._run(name, call.reading)
        told = self.step.name, op, split, params, signature, nodes, None, spec, self.seed
        return Apply(*told, calibration=read), spec

    def _run(self, name: str, reading: Reading) -> PromptRun:
        """Return the run of a model on prompts, the same one for all layers, and note before which a tensor looks."""
        model = self.known.get(reading.model)
        if model is None:
            near = did_you_mean(reading.model, self.known)
            raise PlanError(f"{name}: looks at `{reading.model}`, which is none of the step's models{near}")
        require_layer(name, reading, model)
        key = reading.model, reading.prompts
        if key not in self.runs:
            self.runs[key] = prompt_run(self.step, model, reading.prompts)
        run = self.runs[key]
        if run.layers.setdefault(name, reading.layer) != reading.layer:
            what = f"layout op `{self.step.op.name}`: {name} looks before layers {run.layers[name]} and {reading.layer}"
            raise PluginError(f"{what}; let a tensor look before one layer")
        return run


def _needs_are_met(call: Call) -> bool:
    """Return whether a call gives its op the hidden states that it needs, and none that it does not look at."""
    needs = set(call.op.needs)
    return needs <= OF_PROMPTS and bool(needs) == (call.reading is not None)


_CALLED = frozenset({Split.ELEMENT, Split.ROW, Split.REDUCE, Split.TENSOR})


def _shapes(parts: Sequence[Placed]) -> str:
    return " and ".join(str(spec.shape) for _, spec in parts) or "nothing"
