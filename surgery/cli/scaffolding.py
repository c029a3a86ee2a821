"""A new plugin package: names that it may have, and its files, rendered from those in `scaffold/`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from surgery import __version__
from surgery.cli.files import write_new
from surgery.errors import ResourceError, SurgeryError
from surgery.host import owner_of

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

# Only these are rendered; the suffix keeps test runners and type checkers from taking them for our own code.
_SUFFIX: Final = ".template"
_PREFIX: Final = "surgery"
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Package:
    """A plugin package: its family is `name`."""

    name: str

    @property
    def distribution(self) -> str:
        """Return what pip calls it."""
        return f"{_PREFIX}-{self.name.replace('_', '-')}"

    @property
    def module(self) -> str:
        """Return what Python imports it as."""
        return f"{_PREFIX}_{self.name}"


def new_package(name: str) -> Package:
    """Return the package for a family called `name`. Raises SurgeryError if it cannot be called that."""
    if not _NAME.fullmatch(name) or name.startswith(f"{_PREFIX}_"):
        raise SurgeryError(
            f"`{name}` cannot be a plugin's name: it is what ops are called by, as in `mine.blend`; use lower-case "
            f"letters, digits and single underscores, a letter first and no `{_PREFIX}` before it{_near(name)}"
        )
    owner = owner_of(name)
    if owner is not None:
        raise SurgeryError(f"`{name}` is taken: {owner} has a plugin of this name; choose another")
    return Package(name)


def _near(name: str) -> str:
    """Return a suggestion: the name with what it may not hold taken out."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    while words and (words[0] == _PREFIX or words[0][0].isdigit()):
        words.pop(0)
    return f", such as `{'_'.join(words)}`" if words else ""


def package_files(package: Package) -> dict[str, str]:
    """Return the text of every file of a package by its path, sorted."""
    values = {
        "{{name}}": package.name,
        "{{package}}": package.module,
        "{{distribution}}": package.distribution,
        "{{surgery}}": __version__,
    }
    found = {}
    for path, text in _templates(resources.files("surgery.cli") / "scaffold", ""):
        for mark, value in values.items():
            text = text.replace(mark, value)
        found[re.sub(r"^package/", f"{package.module}/", path)] = text
    return dict(sorted(found.items()))


def _templates(folder: Traversable, path: str) -> Iterator[tuple[str, str]]:
    """Yield path and text of every template below a folder of the installed package."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _templates(entry, f"{path}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield f"{path}{entry.name.removesuffix(_SUFFIX)}", entry.read_text(encoding="utf-8")


def write_package(package: Package, into: Path) -> Path:
    """Write a package's files into a new folder below `into` and return the folder.

    Raises ResourceError if there is anything at its place, or if it cannot be written.
    """
    folder = into / package.distribution
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise ResourceError(
                f"{folder}: exists; nothing is overwritten, choose another name or another folder with --into"
            )
        for path, text in package_files(package).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_new(folder / path, text, force=False)
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be made: {error.strerror}; choose another place") from error
    return folder
