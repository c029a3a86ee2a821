"""Which files of a folder are the model: one file, the files that an index names, or several as a union."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from surgery.checkpoint.strict_json import json_type, parse_object
from surgery.errors import CheckpointError

MAX_INDEX: Final = 100_000_000
_SHOWN: Final = 20
_PART: Final = re.compile(r"(?P<stem>.*)-(?P<part>\d{5})-of-(?P<parts>\d{5})")


@dataclass(frozen=True, slots=True)
class Naming:
    """How a format names its files: `model` + `.safetensors`; `pattern` finds shards that no index lists."""

    stem: str
    suffix: str
    pattern: str

    @property
    def single(self) -> str:
        """Return the name of a model in one file."""
        return self.stem + self.suffix

    @property
    def index(self) -> str:
        """Return the name of the index of a model in several files."""
        return f"{self.single}.index.json"


@dataclass(frozen=True, slots=True)
class Found:
    """The files of a model in order of their names; the index and its map from tensor to file, if any."""

    files: tuple[Path, ...]
    index: Path | None = None
    weight_map: Mapping[str, str] | None = None


def find_files(folder: Path, naming: Naming) -> Found:
    """Return the files of the model in `folder`; `files` is empty when there is none of this format.

    Raises CheckpointError for a broken index, missing shards, and a file and an index that both claim to be
    it.
    """
    names = [entry.name for entry in folder.iterdir()]
    return find_among(folder, names, naming, lambda index: read_index(folder / index))


def find_among(
    folder: Path, names: Collection[str], naming: Naming, read: Callable[[str], dict[str, str]]
) -> Found:
    """Do as `find_files` for a folder that may be elsewhere: `names` are its files, `read` reads an index."""
    index, single = naming.index, naming.single
    if index not in names:
        others = sorted(fnmatch.filter(names, f"[!.]*{naming.suffix}.index.json"))
        index = others[0] if len(others) == 1 and single not in names else index
    if index in names:
        weight_map = read(index)
        listed = sorted(set(weight_map.values()))
        if single in names and single not in listed:
            raise CheckpointError(
                f"{folder}: has both `{single}` and `{index}`, which does not list it;"
                " remove the one that is out of date, or name the file itself"
            )
        return Found(tuple(folder / name for name in listed), folder / index, weight_map)
    if single in names:
        return Found((folder / single,))
    files = [folder / name for name in sorted(fnmatch.filter(names, naming.pattern))]
    report(folder, _missing_parts(files))
    return Found(tuple(files))


def read_index(path: Path) -> dict[str, str]:
    """Return the weight map of an index. Raises CheckpointError, all problems listed, if it is not one."""
    size = path.stat().st_size
    if size > MAX_INDEX:
        raise CheckpointError(f"{path}: has {size} bytes, an index has at most {MAX_INDEX}; it is damaged")
    return parse_index(path, path.read_bytes(), lambda file: _is_at(path, file))


def parse_index(path: Path, data: bytes, is_there: Callable[[str], bool]) -> dict[str, str]:
    """Return the weight map that an index says; `path` is for messages, `is_there` knows its folder's files."""
    weight_map = parse_object(data, str(path)).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{path}: `weight_map` must be an object, got {json_type(weight_map)}")
    report(path, (_name_problem(tensor, file) for tensor, file in weight_map.items()))
    report(path, (f"`{file}` is missing" for file in sorted(set(weight_map.values())) if not is_there(file)))
    return weight_map


def _name_problem(tensor: str, file: object) -> str:
    """Return what is wrong with a file name: an index must not reach outside its folder."""
    if not isinstance(file, str):
        return f"tensor `{tensor}`: file must be a string, got {json_type(file)}"
    if file in ("", ".", "..") or any(letter in file for letter in "/\\\0:"):
        return f"tensor `{tensor}`: file must be a plain name in the same folder, got `{file!r}`"
    return ""


def _is_at(index: Path, file: str) -> bool:
    return (index.parent / file).is_file()


def _missing_parts(files: Iterable[Path]) -> list[str]:
    """Return a problem for each shard that the names of the others promise (`-00001-of-00003`)."""
    present: dict[tuple[str, str, str], set[int]] = {}
    for file in files:
        if match := _PART.fullmatch(file.stem):
            key = (match["stem"], match["parts"], file.suffix)
            present.setdefault(key, set()).add(int(match["part"]))
    return [
        f"`{stem}-{part:05d}-of-{parts}{suffix}` is missing"
        for (stem, parts, suffix), found in present.items()
        for part in range(1, int(parts) + 1)
        if part not in found
    ]


def check_index(found: Found, names: Mapping[str, Collection[str]]) -> None:
    """Check that index and headers agree; `names` are the tensors that each file's header lists.

    Raises CheckpointError with all problems: a tensor in no header, in one of another file, not mapped, or
    twice.
    """
    if found.weight_map is None:
        _check_union(found, names)
        return
    problems = [
        f"tensor `{tensor}` is not in `{file}`, where the index puts it"
        for tensor, file in found.weight_map.items()
        if tensor not in names[file]
    ]
    for file, tensors in names.items():
        for tensor in tensors:
            mapped = found.weight_map.get(tensor)
            if mapped != file:
                instead = f"puts it in `{mapped}`" if mapped else "does not list it"
                problems.append(f"tensor `{tensor}` is in `{file}`, but the index {instead}")
    report(found.index or found.files[0], problems)


def _check_union(found: Found, names: Mapping[str, Collection[str]]) -> None:
    home: dict[str, str] = {}
    problems = [
        f"tensor `{tensor}` is in `{first}` and in `{file}`"
        for file, tensors in names.items()
        for tensor in tensors
        if (first := home.setdefault(tensor, file)) != file
    ]
    if problems:
        problems.append("the files are not parts of one model: name the one that is meant")
        report(found.files[0].parent, problems)


def report(where: Path | str, problems: Iterable[str]) -> None:
    """Raise one CheckpointError for all problems that are not empty, if there are any."""
    found = [problem for problem in problems if problem]
    if len(found) > _SHOWN:
        found[_SHOWN - 1 :] = [f"and {len(found) - _SHOWN + 1} more like these"]
    if found:
        raise CheckpointError("\n".join(f"{where}: {problem}" for problem in found))
