"""What the family hears of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import surgery

if TYPE_CHECKING:
    from surgery.execute.report import JobDone, Report


@surgery.hookimpl
def surgery_job_done(job: JobDone) -> None:
    """Tell of a tensor, so that the test sees that observers are asked."""
    print(f"shrink saw {job.tensor}")


@surgery.hookimpl
def surgery_run_finished(report: Report) -> None:
    """Tell of the end of a run."""
    print(f"shrink saw {len(report.outputs)} output")
