"""Results as plain data, for `--json`. What is named here is what scripts rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.errors import Finding

if TYPE_CHECKING:
    from surgery.execute.report import Report


def finding_record(finding: Finding) -> dict[str, str]:
    """Return a finding: the place in the file, the path in the recipe, what was found."""
    return {"where": finding.where, "path": finding.path, "what": finding.what}


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
            }
            for output in report.outputs
        ],
        "warnings": [finding_record(finding) for finding in report.warnings],
    }
