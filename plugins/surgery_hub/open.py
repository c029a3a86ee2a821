"""From an address on the Hub to a checkpoint, or to files in the cache that another format opens."""

from __future__ import annotations

import fnmatch
import posixpath
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Final

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.folder import Found, find_among, parse_index
from surgery.checkpoint.safetensors import SAFETENSORS
from surgery.errors import CheckpointError, did_you_mean
from surgery_hub.address import source_address
from surgery_hub.listing import Listing, list_files
from surgery_hub.source import HubCheckpoint

# Weights that are no safetensors model, the better ones first; of these whole files are fetched while planning.
_OTHERS: Final = (
    ("adapter_model.safetensors", "adapter_model.bin"),
    ("delta*.safetensors", "delta*.safetensors.index.json"),
    ("*_model*.bin", "*_model*.bin.index.json"),
    ("*.gguf",),
    ("*.pt", "*.pth", "*.bin"),
)
_ADAPTERS: Final = frozenset({"adapter_config.json", "delta_config.json"})
_SMALL: Final = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")


def open_hub(text: str, folder: Path) -> Checkpoint | Path:
    """Open `org/name[@revision][/folder or file]`. Of safetensors only headers are read.

    Of adapters, deltas, pickles and other formats the files are fetched, and their folder is returned.
    """
    listing = list_files(source_address(text))
    path = listing.named.path
    if path in listing.files:
        return _file(listing, path)
    under = f"{path}/" if path else ""
    every = [p.removeprefix(under) for p in listing.files if p.startswith(under)]
    names = [name for name in every if "/" not in name]
    if not names:
        near = did_you_mean(path, {posixpath.dirname(p) for p in listing.files} - {""})
        raise CheckpointError(f"{listing.named}: the repository has no such folder or file{near}")
    if _ADAPTERS & set(names) or not _matching(
        names, (SAFETENSORS.pattern, f"*{SAFETENSORS.suffix}.index.json")
    ):
        return _others(listing, under, names)
    inner = [name for name in every if "/" in name] if "modules.json" in names else []
    return HubCheckpoint(listing, under, [*names, *inner], _found(listing, under, names))


def _file(listing: Listing, path: str) -> Checkpoint | Path:
    if not path.endswith(SAFETENSORS.suffix):
        return listing.download(path)
    under = path[: len(path) - len(posixpath.basename(path))]
    names = [p.removeprefix(under) for p in listing.files if p.startswith(under)]
    return HubCheckpoint(listing, under, names, Found((Path(path),)))


def _found(listing: Listing, under: str, names: Collection[str]) -> Found:
    """Return which of a folder's files are the model."""
    where = Path(str(listing.named))

    def read(index: str) -> dict[str, str]:
        data = listing.download(under + index).read_bytes()
        return parse_index(where / index, data, lambda file: file in names)

    return find_among(where, names, SAFETENSORS, read)


def _others(listing: Listing, under: str, names: Collection[str]) -> Path:
    """Fetch the weights that there are, with the small files beside them; return their folder in the cache."""
    weights = next((found for patterns in _OTHERS if (found := _matching(names, patterns))), [])
    if not weights:
        kinds = Counter(Path(name).suffix or name for name in names).most_common(8)
        got = ", ".join(f"{count} `*{kind}`" for kind, count in kinds)
        raise CheckpointError(
            f"{listing.named}: has no weights in a known format, got {got}; name the folder or file that has"
        )
    paths = [listing.download(under + name) for name in (*_matching(names, _SMALL), *weights)]
    return paths[-1].parent


def _matching(names: Collection[str], patterns: Collection[str]) -> list[str]:
    return sorted({name for pattern in patterns for name in fnmatch.filter(names, pattern)})
