"""A base as an adapter changes it, computed row by row while it is read.

Rows are computed in blocks that begin at fixed rows of the tensor, whatever range is asked for: a product of few rows
takes other instructions than one of many, and its last bits differ (measured: one row at a time changes four numbers
of five at rank 64). A range that begins or ends inside a block costs the whole block.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_128_digest

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.checkpoint.view import View
from surgery.tensors import DTYPES, TensorSpec, promote
from surgery_hf.peft_edits import Edit
from surgery_hf.peft_formula import Formula, Held

if TYPE_CHECKING:
    from torch import Tensor

# Elements of a block; part of the numbers, like VERSION: raise that when the arithmetic changes.
BLOCK: Final = 1 << 15
VERSION: Final = 1

# Decoded factors that are kept for the next range; those of the tensor being read are kept in any case.
CACHE_BYTES: Final = 32 * 2**20


class _Reading:
    """An adapter's tensors in the dtype of a fold, and the tensor that is folded into."""

    def __init__(self, adapter: Checkpoint, spec: TensorSpec, origin: tuple[Checkpoint, str]) -> None:
        self.adapter, self.dtype, self.spec, self.origin = adapter, spec.dtype, spec, origin

    def whole(self, name: str) -> Tensor:
        """Return a tensor in its shape."""
        spec = self.adapter.tensors[name]
        return _read(self.adapter, name, 0, spec.numel, self.dtype).view(spec.shape)

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Return rows of a tensor; numbers of a vector are rows of one."""
        row = self.adapter.tensors[name].row
        return _read(self.adapter, name, first * row, last * row, self.dtype).view(last - first, row)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the tensor before the fold in blocks of rows."""
        rows = max(1, BLOCK // self.spec.row)
        for first in range(0, self.spec.numel // self.spec.row, rows):
            yield first, self.block(first, rows)

    def block(self, first: int, rows: int) -> Tensor:
        """Return some rows of the tensor before the fold, fewer at its end."""
        row = self.spec.row
        last = min(first + rows, self.spec.numel // row)
        where, source = self.origin
        return _read(where, source, first * row, last * row, self.dtype).view(last - first, row)


class FoldedCheckpoint(View):
    """A base with an adapter folded in; what the adapter leaves alone is the base's, byte by byte.

    A folded tensor is float32, or float64 if anything it is made of is: nothing is rounded to the base's dtype before
    an op has seen it. That dtype is its `native` one, in which it is written unless the recipe says otherwise.
    """

    def __init__(self, base: Checkpoint, adapter: Checkpoint, edits: Mapping[str, Edit]) -> None:
        super().__init__(base, adapter)
        self._base, self._adapter, self._edits = base, adapter, edits
        self.tensors = {name: self._spec(spec) for name, spec in base.tensors.items()}
        self.native = {name: base.tensors[name].dtype for name in edits} | dict(base.native)
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, Held] = OrderedDict()

    def made_of(self, name: str) -> list[tuple[Checkpoint, str]]:
        """Return what is changed, and the factors that change it."""
        update = self._edits.get(name, Edit()).update
        return [self._origin(name), *((self._adapter, part) for part in (update.parts() if update else ()))]

    def whole_file_bytes(self) -> int:
        """Return the bytes that decoded factors may take."""
        updates = [edit.update for edit in self._edits.values() if edit.update]
        sizes = [8 * update.held(self._adapter.tensors) for update in updates]
        return min(sum(sizes), max(CACHE_BYTES, *sizes)) if sizes else 0

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with bytes of a tensor, folded as it is read."""
        edit = self._edits.get(name, Edit())
        if edit.update is not None:
            self._fold(name, edit.update, start, buffer)
        else:
            where, source = self._origin(name)
            where.read_into(source, start, buffer)

    def prefetch(self, name: str, start: int, nbytes: int) -> None:
        """Ask the system to read ahead what the stretch is computed from."""
        where, source = self._origin(name)
        ours, theirs = DTYPES[self.tensors[name].dtype].bits, DTYPES[where.tensors[source].dtype].bits
        where.prefetch(source, start * theirs // ours, nbytes * theirs // ours)

    def extent(self, name: str) -> Extent | None:
        """Return where a tensor lies that is not computed; None for one that is."""
        where, source = self._origin(name)
        return None if self._edits.get(name, Edit()).update else where.extent(source)

    def identity(self, name: str) -> bytes:
        """Return a digest of all that a tensor is computed from: both files, the scale, the arithmetic."""
        where, source = self._origin(name)
        update = self._edits.get(name, Edit()).update
        if update is None:
            return where.identity(source)
        used = [self._adapter.identity(part) for part in update.parts()]
        what = ("fold", VERSION, BLOCK, where.identity(source), *used, update)
        return xxh3_128_digest(repr(what).encode())

    def _origin(self, name: str) -> tuple[Checkpoint, str]:
        """Return where the tensor that an update is added to is read: the base, or the adapter that replaces it."""
        replacement = self._edits.get(name, Edit()).replacement
        return (self._base, name) if replacement is None else (self._adapter, replacement)

    def _spec(self, spec: TensorSpec) -> TensorSpec:
        where, source = self._origin(spec.name)
        update = self._edits.get(spec.name, Edit()).update
        dtype = where.tensors[source].dtype
        if update is not None:
            others = (self._adapter.tensors[part].dtype for part in update.parts())
            dtype = promote([dtype, "F32", *(other for other in others if DTYPES[other].arithmetic)])
        return spec.with_(dtype=dtype)

    def _fold(self, name: str, update: Formula, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from the blocks of rows that its bytes lie in."""
        from surgery.math.stretch import fill_from_blocks

        spec = self.tensors[name]
        if not buffer.nbytes:
            return
        held, rows = self._held(name, update), max(1, BLOCK // spec.row)
        fill_from_blocks(
            spec, rows, start, buffer, lambda first: self._block(name, update, held, first, rows)
        )

    def _block(self, name: str, update: Formula, held: Held, first: int, rows: int) -> Tensor:
        """Return a block of rows."""
        reading = _Reading(self._adapter, self.tensors[name], self._origin(name))
        W = reading.block(first, rows)
        update.change(W, first, held, reading)
        return W

    def _held(self, name: str, update: Formula) -> Held:
        """Return what a formula keeps decoded; that of the tensors read last is kept."""
        with self._lock:
            if name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
        made = update.decode(_Reading(self._adapter, self.tensors[name], self._origin(name)))
        with self._lock:
            self._cache[name] = made
            while len(self._cache) > 1 and sum(map(_nbytes, self._cache.values())) > CACHE_BYTES:
                self._cache.popitem(last=False)
        return made


def _nbytes(held: Held) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in held.values())


def _read(where: Checkpoint, name: str, first: int, last: int, dtype: str) -> Tensor:
    """Return elements first to last of a stored tensor in the dtype of the fold, in memory of their own."""
    from surgery.math.convert import torch_dtype
    from surgery.math.stretch import stretch

    return stretch(where, where.tensors[name], first, last - first).to(torch_dtype(dtype))
