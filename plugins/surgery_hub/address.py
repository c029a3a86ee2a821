"""What a user writes for something on the Hub: `org/name`, `org/name@revision`, with a folder or file behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from surgery.errors import CheckpointError

_NAME: Final = r"\w(?:[\w-]|\.(?!\.))*"
# A revision with slashes is written with `%2F`, but for these two, which the Hub makes itself.
_REVISION: Final = r"refs/(?:pr|convert)/\w+|[^/\s@]+"
_REPO: Final = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
_BARE: Final = re.compile(rf"{_REPO.pattern}(?:@(?:{_REVISION})(?:/\S+)?)?", re.ASCII)
_FULL: Final = re.compile(
    rf"(?P<repo>{_REPO.pattern})(?:@(?P<revision>{_REVISION}))?(?:/(?P<path>\S+?))?/?", re.ASCII
)
_PLACE: Final = re.compile(rf"(?P<repo>{_REPO.pattern})(?:@(?P<branch>[\w][\w./-]*))?", re.ASCII)
_LONGEST: Final = 96  # the Hub's limit for `org/name`


@dataclass(frozen=True, slots=True)
class Address:
    """A repository, the revision (None: its main branch), and a folder or file in it ("": all of it)."""

    repo: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{at}" + (f"/{self.path}" if self.path else "")


def is_bare(source: str) -> bool:
    """Return whether a source without a scheme may be a repository: `org/name`, `org/name@revision`."""
    return _BARE.fullmatch(source) is not None


def source_address(text: str) -> Address:
    """Return what a source names. Raises CheckpointError for what is no address."""
    match = _FULL.fullmatch(text)
    parts = (match["path"] or "").split("/") if match else []
    # git allows no `..` in a revision; in the cache it would lead elsewhere
    if match is None or _too_long(match["repo"]) or ".." in parts or ".." in (match["revision"] or ""):
        raise CheckpointError(
            f"hub:{text}: is not a model on the Hub; write `org/name`, `org/name@revision`"
            " or `hub:org/name@revision/folder`"
        )
    revision = match["revision"].replace("%2F", "/").replace("%2f", "/") if match["revision"] else None
    return Address(match["repo"], revision, match["path"] or "")


def place_problem(text: str) -> str:
    """Return what is wrong with a place to publish to, "" if nothing is."""
    match = _PLACE.fullmatch(text)
    if match is None or _too_long(match["repo"]):
        return f"`{text}` is no repository on the Hub; write `hub:org/name` or `hub:org/name@branch`"
    return ""


def place_address(text: str) -> Address:
    """Return the repository and the branch of a place that has no problem."""
    match = _PLACE.fullmatch(text)
    assert match is not None, text
    return Address(match["repo"], match["branch"])


def place_folder(text: str) -> str:
    """Return the name of the folder in which an output is made: `org--name`, with the branch if there is one."""
    return re.sub(r"[/@]", "--", text)


def _too_long(repo: str) -> bool:
    return len(repo) > _LONGEST or "--" in repo or repo.endswith((".", "-", ".git"))
