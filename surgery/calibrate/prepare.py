"""What can be known before the first block is run: the model without weights, the samples, who is changed where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from surgery.calibrate.skeleton import OUTSIDE, Skeleton
from surgery.calibrate.text import load_tokenizer, stretches
from surgery.plan.nodes import Calibration


@dataclass(frozen=True, slots=True)
class Prepared:
    """A calibration that can begin: `ids` are the samples, `members` the tensors that the op changes, by block."""

    calibration: Calibration
    skeleton: Skeleton
    ids: torch.Tensor
    members: Mapping[int, tuple[str, ...]]

    @property
    def parts(self) -> list[int]:
        """Return the blocks up to the last that is needed, and OUTSIDE behind them if something there is changed."""
        if OUTSIDE in self.members:
            return [*range(len(self.skeleton.blocks)), OUTSIDE]
        return list(range(max(self.members, default=-1) + 1))


def prepare(calibration: Calibration) -> Prepared:
    """Build the model without weights and choose the samples. Raises PlanError when either cannot be done."""
    skeleton = Skeleton(calibration)
    members: dict[int, tuple[str, ...]] = {}
    for name in calibration.members:
        block = skeleton.block_of(skeleton.place(name).target)
        members[block] = (*members.get(block, ()), name)
    tokenizer = load_tokenizer(calibration.step, calibration.sidecars)
    return Prepared(calibration, skeleton, stretches(calibration, tokenizer), members)
