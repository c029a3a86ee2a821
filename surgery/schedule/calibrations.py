"""What it takes to run a model block by block on calibration text: memory and disk, from headers and config alone.

    memory  the weights of the largest block (or of what lies outside the blocks), in float32
            + either the buffers in which tensors are computed, or the activations of the samples in flight
            + the statistics so far
    disk    what goes into a block and what comes out of it, for all samples: two files

Nothing of this grows with the number of blocks but the statistics: for every Linear a number for each of its inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from surgery.plan.model import Output, OutputTensor
from surgery.plan.nodes import Calibration, Node
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


def cost_of(calibration: Calibration) -> CalibrationCost:
    """Return what a calibration takes."""
    jobs = calibration_jobs(calibration, calibration.nodes)
    config = text_config(calibration.config)
    tokens = calibration.settings.length * calibration.settings.samples
    hidden = _hidden(calibration, config)
    return CalibrationCost(
        step=calibration.step,
        samples=calibration.settings.samples,
        length=calibration.settings.length,
        weights=max(_parts(calibration).values(), default=0),
        computing=max((job.held for job in jobs), default=0),
        working=max((job.working for job in jobs), default=0),
        sample=_sample(calibration, hidden),
        statistics=_DOUBLE * sum(spec.shape[-1] + 1 for spec in _members(calibration)),
        disk=2 * _FLOAT * tokens * hidden,
    )


def calibration_jobs(
    calibration: Calibration, names: Collection[str], changed: Collection[str] = ()
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


def _parts(calibration: Calibration) -> Mapping[tuple[str, int] | str, int]:
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


def _hidden(calibration: Calibration, config: Mapping[str, object]) -> int:
    """Return the size of the residual stream: what the config says, else the smallest side of a block's matrices."""
    for key in ("hidden_size", "n_embd", "d_model"):
        if isinstance(size := config.get(key), int):
            return size
    return min((min(spec.shape) for spec in _matrices(calibration)), default=1)


def _matrices(calibration: Calibration) -> list[TensorSpec]:
    roles = calibration.roles
    return [
        node.spec
        for name, node in calibration.nodes.items()
        if len(node.spec.shape) > 1 and roles[name].layer is not None
    ]


def _sample(calibration: Calibration, hidden: int) -> int:
    """Return the bytes of the activations of one sample in a block."""
    widest = max((max(spec.shape[-2:]) for spec in _matrices(calibration)), default=hidden)
    return calibration.settings.length * _FLOAT * (NARROW * hidden + WIDE * widest)
