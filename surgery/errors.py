"""What can go wrong.

    SurgeryError            printed without a traceback, exit code 2
    ├── RecipeError         the YAML is wrong: file, line, column; all of them at once
    ├── PlanError           well formed but cannot be resolved: step, tensor, what was wanted and found
    ├── CheckpointError     a file is missing, truncated, inconsistent or unsafe: file and tensor
    ├── OpError             an op failed on a tensor: step, tensor, shapes, cause
    ├── ResourceError       memory, disk or device: needed, available, what to change
    └── PluginError         a plugin broke the contract: plugin, distribution, version
    anything else           is a bug: traceback

Every message has the form `where: what is wrong, got what; what to do`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class SurgeryError(Exception):
    """Something the user can mend."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found wrong, and where: `file:line:col: path: what`."""

    what: str
    where: str = ""
    path: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.path, self.what) if part)


class _Findings(SurgeryError):
    """An error that reports all findings at once, a line each."""

    def __init__(self, findings: str | Finding | Sequence[Finding]) -> None:
        if isinstance(findings, str):
            findings = [Finding(findings)]
        elif isinstance(findings, Finding):
            findings = [findings]
        self.findings: tuple[Finding, ...] = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class RecipeError(_Findings):
    """The recipe's text is wrong."""


class PlanError(_Findings):
    """The recipe is well formed but cannot be carried out on these models."""


class CheckpointError(SurgeryError):
    """A weight file is missing, truncated, inconsistent or unsafe."""


class OpError(SurgeryError):
    """An op failed on a tensor."""


class ResourceError(SurgeryError):
    """Memory, disk or a device does not suffice."""


class PluginError(SurgeryError):
    """A plugin broke the contract."""


def did_you_mean(word: str, known: Iterable[str], limit: int = 3) -> str:
    """Return `; did you mean `x`?` for the known words nearest to `word`, or what is known if it is little.

    `ties` is taken for `merge.ties` before it is taken for a misspelling.
    """
    known = sorted(set(known))
    ends = [name for name in known if name.endswith(f".{word.lower()}")]
    near = ends[:limit] or difflib.get_close_matches(word.lower(), known, n=limit, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(f"`{name}`" for name in near) + "?"
    if 0 < len(known) <= 12:
        return "; known: " + ", ".join(f"`{name}`" for name in known)
    return ""
