"""A base as a stored delta changes it, computed block by block as it is read; every block's base is checked first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_128_digest

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.checkpoint.view import View
from surgery.errors import CheckpointError
from surgery.tensors import DTYPES, TensorSpec, promote
from surgery_delta._codec import Codec, Held
from surgery_delta._stored import block_rows

if TYPE_CHECKING:
    from torch import Tensor

# Raise it when a codec's numbers change: what was journaled with the old ones is then computed again.
VERSION: Final = 1

# What codecs hold decoded for the next range; that of the tensor being read is kept in any case.
CACHE_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Change:
    """What is stored of a tensor's change: its codec, and the checks of its base."""

    codec: Codec
    check: TensorSpec

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return all stored tensors, the codes first."""
        return (*self.codec.parts, self.check)


class DeltaCheckpoint(View):
    """A base as a delta changes it: coded tensors are computed, `whole` ones the delta's own, others the base's.

    What is computed is float32, or float64 if the base is: nothing is rounded to the base's dtype before an op has seen
    it. That dtype is its `native` one, in which it is written unless the recipe says otherwise.
    """

    def __init__(
        self,
        base: Checkpoint,
        delta: Checkpoint,
        changes: Mapping[str, Change],
        whole: Collection[str],
        named: str,
    ) -> None:
        super().__init__(base, delta)
        self._base, self._delta, self._changes, self._whole = base, delta, dict(changes), frozenset(whole)
        self._named = named
        self.tensors = {name: self._spec(spec) for name, spec in base.tensors.items()}
        self.native = dict(base.native) | {name: base.tensors[name].dtype for name in changes}
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, Held] = OrderedDict()

    def _spec(self, spec: TensorSpec) -> TensorSpec:
        if spec.name in self._changes:
            return spec.with_(dtype=promote([spec.dtype, "F32"]))
        return self._delta.tensors[spec.name] if spec.name in self._whole else spec

    def _home(self, name: str) -> Checkpoint:
        """Return where a tensor is stored that is not computed, or what the change is of."""
        return self._delta if name in self._whole else self._base

    def made_of(self, name: str) -> list[tuple[Checkpoint, str]]:
        """Return the tensor as base or delta store it, and what is stored of its change."""
        parts = self._changes[name].parts if name in self._changes else ()
        return [(self._home(name), name), *((self._delta, part.name) for part in parts)]

    def whole_file_bytes(self) -> int:
        """Return the bytes that codecs may hold decoded."""
        sizes = [8 * change.codec.held for change in self._changes.values()]
        return min(sum(sizes), max(CACHE_BYTES, *sizes)) if any(sizes) else 0

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with bytes of a tensor, changed as it is read. Raises CheckpointError for another base."""
        if name not in self._changes:
            self._home(name).read_into(name, start, buffer)
            return
        from surgery.math.stretch import fill_from_blocks

        if not buffer.nbytes:
            return
        spec, held = self.tensors[name], self._held(name)
        fill_from_blocks(
            spec, block_rows(spec.row), start, buffer, lambda first: self._block(name, first, held)
        )

    def prefetch(self, name: str, start: int, nbytes: int) -> None:
        """Ask the system to read ahead what the stretch is computed from."""
        home, spec = self._home(name), self.tensors[name]
        bits, stored = DTYPES[spec.dtype].bits, DTYPES[home.tensors[name].dtype].bits
        home.prefetch(name, start * stored // bits, nbytes * stored // bits)
        if name in self._changes:
            codes = self._changes[name].codec.parts[0]
            share = codes.nbytes / spec.nbytes
            self._delta.prefetch(codes.name, int(start * share), int(nbytes * share))

    def extent(self, name: str) -> Extent | None:
        """Return where a tensor lies that is not computed; None for one that is."""
        return None if name in self._changes else self._home(name).extent(name)

    def identity(self, name: str) -> bytes:
        """Return a digest of all that a tensor is computed from: both files, the codec, the arithmetic."""
        stored = self._home(name).identity(name)
        if name not in self._changes:
            return stored
        change = self._changes[name]
        parts = [self._delta.identity(part.name) for part in change.parts]
        return xxh3_128_digest(repr(("delta", VERSION, stored, parts, change)).encode())

    def _held(self, name: str) -> Held:
        """Return what a codec keeps decoded; that of the tensors read last is kept."""
        with self._lock:
            if name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
        made = self._changes[name].codec.begin(self._delta, self._base)
        with self._lock:
            self._cache[name] = made
            while len(self._cache) > 1 and sum(map(_nbytes, self._cache.values())) > CACHE_BYTES:
                self._cache.popitem(last=False)
        return made

    def _block(self, name: str, first: int, held: Held) -> Tensor:
        """Return a changed block of rows."""
        from surgery.math.convert import torch_dtype
        from surgery.math.stretch import stretch

        spec, stored = self.tensors[name], self._base.tensors[name]
        last = min(first + block_rows(spec.row), spec.shape[0])
        flat = stretch(self._base, stored, first * spec.row, (last - first) * spec.row)
        rows = flat.to(torch_dtype(spec.dtype)).view(-1, spec.row)
        self._require_base(name, first, last, rows)
        return self._changes[name].codec.onto(rows, self._delta, first, held)

    def _require_base(self, name: str, first: int, last: int, rows: Tensor) -> None:
        from surgery.math.stretch import stretch
        from surgery_delta._checks import checks

        noted = stretch(self._delta, self._changes[name].check, first // block_rows(rows.shape[1]), 1)
        if int(noted) != int(checks(rows)):
            where = f"rows {first} to {last - 1} of {name}"
            raise CheckpointError(
                f"{self.location}: {where} are not those that the delta was taken of; "
                f"name `{self._named}` as `source:`"
            )


def _nbytes(held: Held) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in held.values())
