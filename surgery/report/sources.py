"""Finds the models that an output was made from, and says whether they are still what was read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.origin import origin_of
from surgery.errors import CheckpointError, Finding, PlanError, did_you_mean
from surgery.execute.publish import MANIFEST
from surgery.recipe.yaml import read_yaml

# A single letter before the colon is a drive, not a scheme.
URI: Final = re.compile(r"[a-z][a-z0-9+.-]+:")
# What `recipe_folder` may say: no more than the last part is a name, whatever wrote it.
_BACK: Final = re.compile(r"\.\.(/\.\.)*(/[^/\\\0]+)?|[^./\\\0][^/\\\0]*")
_HUB: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\S+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Made:
    """What an output's manifest says of its making.

    `data` is its recipe as plain data, `home` the folder that paths in it are relative to, `models` what was noted of
    each model that was read.
    """

    folder: Path
    data: Mapping[str, Any]
    home: Path
    models: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, folder: Path, manifest: Mapping[str, Any]) -> Made:
        """Return what a manifest says. Raises CheckpointError if an older release wrote it, or if it is damaged."""
        models, text = manifest.get("models"), manifest.get("recipe")
        whole = isinstance(models, dict) and all(isinstance(noted, dict) for noted in models.values())
        if not (whole and isinstance(models, dict) and isinstance(text, str)):
            raise CheckpointError(
                f"{folder / MANIFEST}: holds no recipe: it was written by an older release, or is damaged"
            )
        data = read_yaml(text, str(folder / MANIFEST)).data
        if not isinstance(data, dict) or not isinstance(data.get("models"), dict):
            raise CheckpointError(f"{folder / MANIFEST}: its recipe names no models; the file is damaged")
        return cls(folder, data, _home(manifest.get("recipe_folder"), folder), models)

    def sources(
        self, given: Mapping[str, str], only: Iterable[str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return the `models:` of the recipe with places where they are now; those that were not read are left out.

        given   paths or Hub ids that are known better, by name; of an adapter by `name.adapter`
        only    the models that are looked for, by default all

        Raises PlanError with all that are nowhere.
        """
        found: dict[str, dict[str, Any]] = {}
        problems: list[Finding] = []
        for name in self.models if only is None else only:
            written = self.data["models"].get(name, {})
            model = dict(written) if isinstance(written, dict) else {"source": written}
            for key, alias in (("source", name), ("adapter", f"{name}.adapter")):
                if key in model:
                    noted = self.models.get(name, {}) if key == "source" else {}
                    model[key] = self._place(str(model[key]), noted, alias, given, problems)
            found[name] = model
        if problems:
            raise PlanError(problems)
        return found

    def check_names(self, given: Mapping[str, str]) -> None:
        """Raise PlanError for names that the recipe has no model of."""
        known = [*self.models, *(f"{name}.adapter" for name in self.models)]
        unknown = [name for name in given if name not in known]
        if unknown:
            raise PlanError(
                [Finding(f"no model `{n}`{did_you_mean(n, self.models)}", "--models") for n in unknown]
            )

    def _place(
        self,
        written: str,
        noted: Mapping[str, Any],
        alias: str,
        given: Mapping[str, str],
        problems: list[Finding],
    ) -> str:
        """Return where a source is now, noting a problem if it is nowhere."""
        if alias in given:
            return str(Path(given[alias]).absolute()) if Path(given[alias]).exists() else given[alias]
        if noted.get("repository") and noted.get("revision"):
            return _pinned(written, str(noted["repository"]), str(noted["revision"]))
        if URI.match(written):
            return written
        path = Path(written).expanduser() if written.startswith("~/") else Path(written)
        places = list(dict.fromkeys((self.home / path, Path.cwd() / path)))
        there = next((place.absolute() for place in places if place.exists()), None)
        if there is None and not _HUB.fullmatch(written):
            looked = " or ".join(f"`{place}`" for place in places)
            what = f"is not at {looked}; pass --models {alias}=PATH"
            problems.append(Finding(what, path=f"models.{alias}"))
        return str(there or written)


def changed(name: str, noted: Mapping[str, Any], checkpoint: Checkpoint) -> list[str]:
    """Return what shows that a model is not the one that was read; nothing if nothing does."""
    files = noted.get("files")
    if not isinstance(files, dict) or not files:
        return []
    now = origin_of(checkpoint).files
    if set(now) != set(files):
        return [f"model `{name}` is in {_listed(now)}, it was read from {_listed(files)}"]
    differing = [file for file in files if not _same(files[file], now[file])]
    return [f"model `{name}`: `{file}` has other bytes than the file that was read" for file in differing]


def _home(back: object, folder: Path) -> Path:
    """Return the folder that a recipe's paths are relative to: where it was, seen from the output, or this one."""
    if isinstance(back, str) and _BACK.fullmatch(back):
        return folder.absolute() / back
    return folder.absolute() if back == "" else Path.cwd()


def _pinned(written: str, repository: str, revision: str) -> str:
    """Return what names one commit of a repository, and the folder in it that was written: `hub:a/b@main/x`."""
    prefix, found, rest = written.partition(repository)
    if not found:
        return f"{repository}@{revision}"
    _, slash, inside = rest.partition("/")
    return f"{prefix}{repository}@{revision}{slash}{inside}"


def _same(noted: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Compare what both sides know; a file in the Hub's cache is known by another digest than a copy of it."""
    return all(noted[key] == now[key] for key in noted.keys() & now.keys())


def _listed(files: Mapping[str, Any]) -> str:
    names = [f"`{name}`" for name in sorted(files)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
