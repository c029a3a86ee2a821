"""Results as plain data, for `--json`. What is named here is what scripts rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.errors import Finding

if TYPE_CHECKING:
    from surgery.execute.report import Report, Written


def finding_record(finding: Finding) -> dict[str, str]:
    """Return a finding: the place in the file, the path in the recipe, what was found."""
    return {"where": finding.where, "path": finding.path, "what": finding.what}


def _noted(output: Written) -> list[dict[str, Any]]:
    """Return what ops noted, taken together: each tensor's numbers are in report.json."""
    from surgery.report.noted import rows_of

    return [
        {
            "step": row.step,
            "number": row.name,
            "tensors": len(row.numbers),
            "least": row.numbers[row.least],
            "most": row.numbers[row.most],
            "mean": row.mean,
        }
        for row in rows_of(output.notes)
    ]


def report_record(report: Report) -> dict[str, Any]:
    """Return a finished run: seconds, bytes, outputs, warnings."""
    return {
        "seconds": round(report.seconds, 3),
        "bytes_read": report.bytes_read,
        "bytes_written": report.bytes_written,
        "peak_rss": report.peak_rss,
        "resumed": report.resumed,
        "workers": report.workers,
        "device": report.device,
        "outputs": [
            {
                "name": output.name,
                "folder": str(output.folder),
                "tensors": output.tensors,
                "nbytes": output.nbytes,
                "shards": output.shards,
                **({"url": output.url} if output.url else {}),
                **({"notes": _noted(output)} if output.notes else {}),
            }
            for output in report.outputs
        ],
        "warnings": [finding_record(finding) for finding in report.warnings],
    }
