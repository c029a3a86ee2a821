"""What a plan amounts to, in numbers: for `surgery plan` and for drawings. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from surgery.checkpoint.layout import ShardLayout
from surgery.errors import Finding
from surgery.plan.model import Output, Plan, reads
from surgery.plan.nodes import Apply, Emitted, Member, Node, Stacked
from surgery.plan.virtual import VirtualModel
from surgery.recipe.resolve_ops import ResolvedStep
from surgery.tensors import TensorSpec

# Bytes read and written in a second on a plain solid-state disk: all that the estimate of the time rests on.
ASSUMED_RATE: Final = 1_000_000_000


class TextCosts(Protocol):
    """What a schedule knows of running a step's input model on calibration text."""

    @property
    def step(self) -> str:
        """The step whose op looks at activations."""

    @property
    def samples(self) -> int:
        """Stretches of text."""

    @property
    def length(self) -> int:
        """Tokens of each."""

    @property
    def weights(self) -> int:
        """Bytes of the largest part of the model, which is there at a time."""

    @property
    def disk(self) -> int:
        """Bytes of disk that are taken meanwhile."""


class Costs(Protocol):
    """What a schedule knows; here as a protocol, because plans come before schedules."""

    @property
    def layouts(self) -> tuple[ShardLayout, ...]:
        """The files of each output."""

    @property
    def reads(self) -> int:
        """Bytes read."""

    @property
    def writes(self) -> int:
        """Bytes of tensors written."""

    @property
    def peak(self) -> int:
        """Bytes of memory at worst."""

    @property
    def budget(self) -> int:
        """Bytes of memory allowed."""

    @property
    def workers(self) -> int:
        """Threads that compute."""

    @property
    def calibrations(self) -> Sequence[TextCosts]:
        """What is run on text first."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A source: where it is, its tensors, parameters, bytes and dtypes (most elements first)."""

    name: str
    source: str
    tensors: int
    parameters: int
    nbytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepSummary:
    """A step: its op, what it reads (base first), and how many tensors it computes and passes on unchanged."""

    name: str
    op: str
    base: str | None
    inputs: tuple[str, ...]
    applied: int
    copied: int


@dataclass(frozen=True, slots=True)
class OutputSummary:
    """An output: its folder (None: not known yet), tensors, parameters, bytes, dtypes and number of files."""

    name: str
    model: str
    folder: Path | None
    tensors: int
    parameters: int
    nbytes: int
    dtypes: tuple[str, ...]
    shards: int
    to: str = ""  # where it is published, if not only in the folder


@dataclass(frozen=True, slots=True)
class CalibrationSummary:
    """A step whose input model is run on text: samples and their tokens, bytes of a block and of disk meanwhile."""

    step: str
    samples: int
    length: int
    block: int
    disk: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A plan in numbers. Bytes, and seconds for `seconds`, which is an estimate from the bytes moved alone."""

    models: tuple[ModelSummary, ...]
    steps: tuple[StepSummary, ...]
    outputs: tuple[OutputSummary, ...]
    bytes_read: int
    bytes_written: int
    peak: int
    budget: int
    workers: int
    warnings: tuple[Finding, ...]
    calibrations: tuple[CalibrationSummary, ...] = ()

    @property
    def seconds(self) -> float:
        """Return the time that moving the bytes takes at `ASSUMED_RATE`."""
        return (self.bytes_read + self.bytes_written) / ASSUMED_RATE

    def record(self) -> dict[str, Any]:
        """Return the summary as plain data."""
        data = asdict(self)
        for output in data["outputs"]:
            output["folder"] = None if output["folder"] is None else str(output["folder"])
        return {**data, "estimated_seconds": round(self.seconds, 3)}


def summarize(plan: Plan, costs: Costs, warnings: Iterable[Finding] = ()) -> Summary:
    """Return a plan in numbers; `warnings` are added to the plan's own."""
    return Summary(
        models=tuple(_model(plan, name) for name in plan.checkpoints),
        steps=tuple(
            _step(step, plan.models[name]) for name, step in plan.steps.items() if name in plan.models
        ),
        outputs=tuple(_output(o, layout) for o, layout in zip(plan.outputs, costs.layouts, strict=True)),
        bytes_read=costs.reads,
        bytes_written=costs.writes,
        peak=costs.peak,
        budget=costs.budget,
        workers=costs.workers,
        warnings=(*plan.warnings, *warnings),
        calibrations=tuple(
            CalibrationSummary(text.step, text.samples, text.length, text.weights, text.disk)
            for text in costs.calibrations
        ),
    )


def _model(plan: Plan, name: str) -> ModelSummary:
    specs = list(plan.checkpoints[name].tensors.values())
    return ModelSummary(
        name=name,
        source=plan.recipe.models[name].source,
        tensors=len(specs),
        parameters=sum(spec.numel for spec in specs),
        nbytes=sum(spec.nbytes for spec in specs),
        dtypes=dtypes_of(specs),
    )


def _step(step: ResolvedStep, model: VirtualModel) -> StepSummary:
    applied = sum(_works(node, step.name) for node in model.nodes.values())
    return StepSummary(
        name=step.name,
        op=step.op.name,
        base=step.base,
        inputs=tuple(reads(step)),
        applied=applied,
        copied=len(model.nodes) - applied,
    )


def _works(node: Node, step: str) -> bool:
    """Return whether a node is this step's own work; a copy is a node of what the step reads."""
    match node:
        case Apply() | Stacked():
            return node.step == step
        case Member():
            return node.group.step == step
        case Emitted():
            return node.call.step == step
        case _:
            return False


def _output(output: Output, layout: ShardLayout) -> OutputSummary:
    specs = [tensor.spec for tensor in output.tensors]
    return OutputSummary(
        name=output.name,
        model=output.model,
        folder=output.folder,
        tensors=len(specs),
        parameters=sum(spec.numel for spec in specs),
        nbytes=output.nbytes,
        dtypes=dtypes_of(specs),
        shards=len(layout.shards),
        to="" if output.target is None else str(output.target),
    )


def dtypes_of(specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the dtypes of tensors, those with most elements first."""
    elements: Counter[str] = Counter()
    for spec in specs:
        elements[spec.dtype] += spec.numel
    return tuple(sorted(elements, key=lambda dtype: (-elements[dtype], dtype)))
