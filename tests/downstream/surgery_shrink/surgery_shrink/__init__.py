"""Ops that shrink deltas: a family outside the project, found by its entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import surgery

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.execute.report import JobDone, Report
    from surgery.ops import Op


class Toward(surgery.Params):
    """Parameters of shrink.toward."""

    by: surgery.Share = 0.5
    """Share of the delta that is taken away."""


@surgery.op("shrink.toward", params=Toward, base="required", models=1, propagates=True)
def toward(x: surgery.Chunk, p: Toward) -> Tensor:
    """Move a model toward the base: θ0 + (1 - by)·(θ - θ0)."""
    import torch

    assert x.base is not None
    return torch.lerp(x.models[0], x.base, p.by)


class Clip(surgery.Params):
    """Parameters of shrink.clip."""

    at: surgery.Scalar = 1.0
    """Largest change allowed, in root mean squares of the delta."""


@surgery.op("shrink.clip", params=Clip, base="required", models=1)
class ClipOp(surgery.Reduce):
    """Clip a model's delta at a multiple of its root mean square."""

    def gather(self, x: surgery.Chunk, p: Clip, found: None) -> float:
        """Return a block's sum of squares."""
        from surgery.math.reduce import squared_norm

        assert x.base is not None
        return squared_norm(x.models[0] - x.base)

    def apply(self, x: surgery.Chunk, p: Clip, found: float) -> Tensor:
        """Return the range with its delta clipped."""
        assert x.base is not None
        limit = p.at * float(found / x.signature.numel) ** 0.5
        return x.base + (x.models[0] - x.base).clamp_(-limit, limit)


@surgery.hookimpl
def surgery_register_ops() -> list[Op]:
    """Return this family's ops."""
    return surgery.ops_in(__name__)


@surgery.hookimpl
def surgery_job_done(job: JobDone) -> None:
    """Tell of a tensor, so that the test sees that observers are asked."""
    print(f"shrink saw {job.tensor}")


@surgery.hookimpl
def surgery_run_finished(report: Report) -> None:
    """Tell of the end of a run."""
    print(f"shrink saw {len(report.outputs)} output")
