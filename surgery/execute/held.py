"""What a job holds from one phase to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from surgery.plan.nodes import Apply


@dataclass(slots=True)
class Held:
    """What a job holds from one phase to the next, by node: what gathers found, whole results, what ops noted."""

    found: dict[int, Any] = field(default_factory=dict)
    looked_at: set[int] = field(
        default_factory=set
    )  # ops whose inputs a gather pass has searched for NaN and Inf
    whole: dict[int, torch.Tensor] = field(default_factory=dict)
    notes: dict[int, dict[str, float]] = field(default_factory=dict)

    def statistics(self, node: Apply) -> Mapping[str, torch.Tensor]:
        """Return the statistics of activations that a node's op needs, by `Need`."""
        if node.calibration is None:
            return {}
        return self.found[id(node.calibration)][node.signature.name]  # type: ignore[no-any-return]
