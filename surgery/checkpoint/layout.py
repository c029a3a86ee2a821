"""Which tensor goes where: shards, offsets, headers, index, all known before the first byte is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from surgery.checkpoint.header import build_header
from surgery.tensors import DTYPES, TensorSpec


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's bytes go: file name, absolute offset in it, length."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One output file: its name, its header's bytes (length included), its size, its tensors in order."""

    file: str
    header: bytes
    size: int
    tensors: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """The files of an output. `total_size` counts tensor bytes; `index_json` is None for a single file."""

    shards: tuple[Shard, ...]
    places: Mapping[str, Place]
    total_size: int
    index_json: bytes | None
    index_file: str = "model.safetensors.index.json"


def lay_out(
    specs: Sequence[TensorSpec],
    shard_size: int,
    metadata: Mapping[str, str] | None = None,
    parameters: int | None = None,
    stem: str = "model",
) -> ShardLayout:
    """Lay tensors out in safetensors shards of at most `shard_size` data bytes.

    Tensors are ordered by element size, 8-4-2-1 bytes, then as given: holes are illegal, so that this order
    is what keeps every tensor aligned. A tensor larger than a shard has one of its own. `parameters` is
    what the index says as `total_parameters`; by default the number of elements. `stem` begins the files'
    names. Raises CheckpointError for tensors that the format cannot hold (see `build_header`), ValueError for
    a shard size below one byte.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least one byte, got {shard_size}")
    ordered = sorted(specs, key=lambda spec: -max(DTYPES[spec.dtype].bits, 8))
    cut = _cut(ordered, shard_size)
    shards = [
        _shard(_file_name(stem, index, len(cut)), tensors, metadata or {})
        for index, tensors in enumerate(cut, start=1)
    ]
    places = {place_name: place for shard in shards for place_name, place in _places(shard)}
    if len(places) < len(specs):
        # inside one shard build_header finds it
        raise ValueError(
            f"two tensors of the output have one name: {len(specs)} tensors, {len(places)} names"
        )
    total_size = sum(place.nbytes for place in places.values())
    count = sum(spec.numel for spec in specs) if parameters is None else parameters
    index = _index(places, total_size, count) if len(shards) > 1 else None
    return ShardLayout(tuple(shards), places, total_size, index, f"{stem}.safetensors.index.json")


def _cut(specs: Iterable[TensorSpec], shard_size: int) -> list[list[TensorSpec]]:
    """Fill one shard after the other; an output without tensors is one empty file."""
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + spec.nbytes > shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.nbytes
    return shards


def _file_name(stem: str, index: int, count: int) -> str:
    return f"{stem}.safetensors" if count == 1 else f"{stem}-{index:05d}-of-{count:05d}.safetensors"


def _shard(file: str, tensors: Sequence[TensorSpec], metadata: Mapping[str, str]) -> Shard:
    header = build_header(tensors, metadata)
    return Shard(file, header, len(header) + sum(spec.nbytes for spec in tensors), tuple(tensors))


def _places(shard: Shard) -> Iterable[tuple[str, Place]]:
    offset = len(shard.header)
    for spec in shard.tensors:
        yield spec.name, Place(shard.file, offset, spec.nbytes)
        offset += spec.nbytes


def _index(places: Mapping[str, Place], total_size: int, parameters: int) -> bytes:
    index = {
        "metadata": {"total_parameters": parameters, "total_size": total_size},
        "weight_map": {name: places[name].file for name in sorted(places)},
    }
    return (json.dumps(index, indent=2) + "\n").encode()
