"""The small files beside the weights: which of them belong to a model, and config.json."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from surgery.checkpoint.strict_json import json_type
from surgery.errors import CheckpointError, ResourceError
from surgery.ops import File

CONFIG: Final = "config.json"
MAX_CONFIG: Final = 10_000_000

# What tokenizers, processors and generation need. Never code (`*.py`), weights, or the parents' cards and
# licences.
_NAMES: Final = frozenset(
    (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tekken.json",
        "merges.txt",
        "chat_template.json",
        "chat_template.jinja",
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "video_preprocessor_config.json",
        "modules.json",
        "config_sentence_transformers.json",
    )
)
_PATTERNS: Final = (
    *("vocab.json", "vocab.txt", "vocab.bpe", "vocab.tsv", "*.model", "*.tiktoken"),
    "sentence_*_config.json",
)
# What sentence-transformers puts behind a model: `1_Pooling/config.json`, `2_Dense/model.safetensors`.
_MODULE: Final = re.compile(r"\d\d?_[A-Za-z]\w*/(?:config\.json|model\.safetensors|pytorch_model\.bin)")

_QUANTIZATION: Final = ("quantization_config", "compression_config")


def is_sidecar(name: str) -> bool:
    """Return whether a file of this name, relative to the model's folder, belongs to it and is copied as it is."""
    if "/" in name:
        return _MODULE.fullmatch(name) is not None
    return name in _NAMES or any(Path(name).match(pattern) for pattern in _PATTERNS)


def sidecars_in(folder: Path) -> dict[str, Path]:
    """Return the sidecar files of a folder, name -> path, sorted by name."""
    inner = folder.glob("[0-9]*_*/*") if (folder / "modules.json").is_file() else ()
    found = {path.relative_to(folder).as_posix(): path for path in (*folder.iterdir(), *inner)}
    return {name: found[name] for name in sorted(found) if is_sidecar(name) and found[name].is_file()}


def put_sidecars(files: Mapping[str, File], folder: Path) -> None:
    """Write sidecar files into a folder: copies of files, and those that are made."""
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file, bytes):
            (folder / name).write_bytes(file)
        else:
            shutil.copyfile(file, folder / name)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed config.json of a folder; {} if it has none.

    As every other reader does, the last of duplicate keys wins and `Infinity` is a number.
    """
    path = folder / CONFIG
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG:
            raise CheckpointError(
                f"{path}: has {size} bytes, at most {MAX_CONFIG} are read; it is no model's config"
            )
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise CheckpointError(f"{path}: is not valid JSON: {error}; mend it or fetch it again") from None
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{path}: must be a JSON object, got {json_type(config)}; mend it or fetch it again"
        )
    return config


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write and sync JSON in transformers' format: two spaces, sorted keys, ASCII, a newline at the end."""
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    try:
        with path.open("w", encoding="ascii", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be written: {error.strerror}; free some space or write elsewhere"
        ) from error


def config_with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return the config with `dtype` (torch's name: `bfloat16`) wherever it, or a nested config, states one.

    Edits `dtype` (transformers 5) or `torch_dtype` (before), whichever is there; states nothing that was
    not stated.
    """

    def edit(part: dict[str, Any]) -> None:
        part.update((key, dtype) for key in ("dtype", "torch_dtype") if key in part)

    return _edited(config, edit)


def without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config without what says that the weights are quantised, also in nested configs."""

    def edit(part: dict[str, Any]) -> None:
        for key in _QUANTIZATION:
            part.pop(key, None)

    return _edited(config, edit)


def _edited(config: Mapping[str, Any], edit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return a copy on which `edit` was called, and on every `..._config` in it but quantisation's own."""
    edited = copy.deepcopy(dict(config))

    def visit(part: dict[str, Any]) -> None:
        edit(part)
        for key, value in part.items():
            if key.endswith("_config") and key not in _QUANTIZATION and isinstance(value, dict):
                visit(value)

    visit(edited)
    return edited
