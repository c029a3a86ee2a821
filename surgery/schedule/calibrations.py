"""What it takes to run a model block by block on text: memory and disk, from headers and config alone.

    memory  the weights of the largest block (or of what lies outside the blocks), in float32
            + either the buffers in which tensors are computed, or the activations of the samples in flight
            + the statistics so far; of Gram matrices those of the largest part, for each sample in flight and in all
    disk    what goes into a block and what comes out of it, for all samples: two files; Gram matrices

Nothing of this grows with the number of blocks but the statistics: for every Linear a number for each of its inputs.
Of prompts, which are short, the states are held in memory beside the statistics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from surgery.ops import Need
from surgery.plan.calibration import OF_PROMPTS
from surgery.plan.model import Output, OutputTensor
from surgery.plan.nodes import Activations, Calibration, Node, PromptRun
from surgery.plan.virtual import text_config
from surgery.schedule.jobs import CHUNK, Job, make_jobs
from surgery.tensors import DTYPES, TensorSpec

# What transformers, a model's code, its tokenizer and torch's kernels take; measured: 95 to 130 MiB.
LIBRARY: Final = 128 * 2**20
# A block computes with float32 tensors of [tokens, features]. At its widest place it holds this many of the hidden
# size (the residual stream, its norm, queries to values) and this many of the widest Linear's size.
NARROW: Final = 6
WIDE: Final = 3
_FLOAT: Final = 4
_DOUBLE: Final = 8


@dataclass(frozen=True, slots=True)
class CalibrationCost:
    """What a step's calibration takes.

    weights     bytes of the largest part of the model that is there at a time
    computing   bytes that jobs hold while they compute a tensor of it
    working     bytes that a worker needs for a chunk meanwhile
    sample      bytes of the activations of one sample
    statistics  bytes of all statistics
    disk        bytes of the files that hold all samples between two blocks
    """

    step: str
    samples: int
    length: int
    weights: int
    computing: int
    working: int
    sample: int
    statistics: int
    disk: int

    @property
    def least(self) -> int:
        """Return the bytes that are held when samples are run one by one."""
        return self.at_once(1)

    def at_once(self, samples: int) -> int:
        """Return the bytes that are held when so many samples are in flight."""
        running = max(self.computing, samples * self.sample)
        return self.besides + running

    @property
    def besides(self) -> int:
        """Return the bytes that are held whatever runs."""
        return LIBRARY + self.weights + self.statistics


def cost_of(calibration: Activations) -> CalibrationCost:
    """Return what a calibration, or a run on prompts, takes."""
    jobs = calibration_jobs(calibration, calibration.nodes)
    hidden = _hidden(calibration, text_config(calibration.config))
    samples, length, statistics, disk = _read(calibration, hidden)
    grams, product = _grams(calibration)
    largest = max(grams.values(), default=0)
    return CalibrationCost(
        step=calibration.step,
        samples=samples,
        length=length,
        weights=max(_parts(calibration).values(), default=0),
        computing=max((job.held for job in jobs), default=0),
        working=max((job.working for job in jobs), default=0),
        sample=_sample(calibration, hidden, length) + largest + product,
        statistics=statistics + 2 * largest,  # the sum of all samples, and what is kept of it
        disk=disk + sum(grams.values()),
    )


def _read(calibration: Activations, hidden: int) -> tuple[int, int, int, int]:
    """Return how many samples are read, the tokens of the longest, bytes of statistics, and of disk."""
    if isinstance(calibration, PromptRun):
        lengths = [len(prompt) for prompt in calibration.prompts]
        rows = len(OF_PROMPTS) * len(lengths) * len(set(calibration.layers.values()))
        held = hidden * (_FLOAT * sum(lengths) + _DOUBLE * rows)
        return len(lengths), max(lengths), held, 0
    samples, length = calibration.settings.samples, calibration.settings.length
    statistics = _DOUBLE * sum(spec.shape[-1] + 1 for spec in _members(calibration))
    return samples, length, statistics, 2 * _FLOAT * length * samples * hidden


def _grams(calibration: Activations) -> tuple[Mapping[object, int], int]:
    """Return the bytes of every part's Gram matrices in float64, and of the largest one; none if none are needed."""
    parts: dict[object, int] = {}
    largest = 0
    if isinstance(calibration, PromptRun) or Need.GRAM not in calibration.needs:
        return parts, largest
    for name, call in calibration.members.items():
        size = _DOUBLE * call.signature.first.shape[-1] ** 2
        part = calibration.roles[name].place
        parts[part] = parts.get(part, 0) + size
        largest = max(largest, size)
    return parts, largest


def calibration_jobs(
    calibration: Activations, names: Collection[str], changed: Collection[str] = ()
) -> list[Job]:
    """Return the jobs that compute some of the model's tensors as it runs: floats in float32.

    Those named in `changed` are computed as the step's op changes them.
    """
    members = calibration.members
    tensors = [_tensor(name, members[name] if name in changed else calibration.nodes[name]) for name in names]
    model = Output(calibration.step, calibration.step, None, tuple(tensors), {}, {}, shard_size=1)
    return make_jobs([model], CHUNK)


def _tensor(name: str, node: Node) -> OutputTensor:
    spec = node.spec
    dtype = "F32" if DTYPES[spec.dtype].arithmetic else spec.dtype
    return OutputTensor(TensorSpec(name, spec.shape, dtype), node)


def _members(calibration: Calibration) -> Sequence[TensorSpec]:
    return [call.signature.first for call in calibration.members.values()]


def _parts(calibration: Activations) -> Mapping[tuple[str, int] | str, int]:
    """Return the bytes of every block, and of what is outside of them."""
    after = any(calibration.roles[name].layer is None for name in calibration.members)
    parts: dict[tuple[str, int] | str, int] = {}
    for name, node in calibration.nodes.items():
        role = calibration.roles[name]
        part = role.place or "outside"
        if part == "outside" and not after and role.kind.partition(".")[0] in ("head", "norm"):
            continue  # only what makes embeddings is needed
        copies = 1 if role.expert is None else 2  # transformers fuses experts: as they are, and together
        parts[part] = parts.get(part, 0) + copies * _FLOAT * node.spec.numel
    return parts


def _hidden(calibration: Activations, config: Mapping[str, object]) -> int:
    """Return the size of the residual stream: what the config says, else the smallest side of a block's matrices."""
    for key in ("hidden_size", "n_embd", "d_model"):
        if isinstance(size := config.get(key), int):
            return size
    return min((min(spec.shape) for spec in _matrices(calibration)), default=1)


def _matrices(calibration: Activations) -> list[TensorSpec]:
    roles = calibration.roles
    return [
        node.spec
        for name, node in calibration.nodes.items()
        if len(node.spec.shape) > 1 and roles[name].layer is not None
    ]


def _sample(calibration: Activations, hidden: int, length: int) -> int:
    """Return the bytes of the activations of one sample in a block."""
    widest = max((max(spec.shape[-2:]) for spec in _matrices(calibration)), default=hidden)
    return length * _FLOAT * (NARROW * hidden + WIDE * widest)
