"""What everything that takes outputs elsewhere promises: `to: hub:org/name` instead of a folder.

check     while planning, without a network: is this a place?
begin     before any weight is computed: may this be published here?
file_done as each file is complete and on the disk, while others are still computed
finish    when all are: now it becomes visible, as a whole or not at all
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


class Publisher(ABC):
    """Takes the files of one output, each once it is complete; all of them become visible in `finish`."""

    place: str  # as the user wrote it, for messages

    @abstractmethod
    def begin(self) -> None:
        """Make sure that publishing is possible. Raises CheckpointError that says what to do if it is not."""

    @abstractmethod
    def file_done(self, path: Path) -> None:
        """Take a file that is complete and will not change; returns at once. Called from any thread.

        Raises CheckpointError when it is known by now that publishing cannot succeed.
        """

    @abstractmethod
    def finish(self, folder: Path) -> str:
        """Make all files of `folder` (not those in folders inside it) visible at once; return where they can be seen.

        Raises CheckpointError if that cannot be done; what was taken so far is not taken again by a later run.
        """

    @abstractmethod
    def doing(self) -> str:
        """Return what is under way, for a line of progress; empty if nothing is."""

    @abstractmethod
    def close(self) -> None:
        """Stop what is under way; nothing becomes visible any more."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A scheme of `to:`. All functions get what follows `scheme:`, or the whole of what is `claimed` without one.

    check   returns what is wrong with it, or ""; called while planning, asks no network
    open    returns its publisher; `private`: what is made new is for its owner's eyes only
    folder  the name of the folder in which the output is made before it is published
    claims  whether a text without a scheme is meant for this one: for `surgery push`, never for recipes
    """

    name: str
    check: Callable[[str], str] = field(repr=False)
    open: Callable[[str, bool], Publisher] = field(repr=False)
    folder: Callable[[str], str] = field(repr=False)
    claims: Callable[[str], bool] | None = field(default=None, repr=False)
