"""A base as an adapter changes it: W + scale·B·A, computed row by row while it is read.

    W' = W + s·B·A        V = W + s·B·A;  W' = m/‖V‖·V, row by row (DoRA, Liu et al. 2024, equation 5)

Rows are computed in blocks that begin at fixed rows of the tensor, whatever range is asked for: a product of few rows
takes other instructions than one of many, and its last bits differ (measured: one row at a time changes four numbers
of five at rank 64). A range that begins or ends inside a block costs the whole block.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_128_digest

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.tensors import DTYPES, TensorSpec, nbytes, promote
from surgery_hf.peft_edits import Edit, Update

if TYPE_CHECKING:
    from torch import Tensor

# Elements of a block; part of the numbers, like VERSION: raise that when the arithmetic changes.
BLOCK: Final = 1 << 15
VERSION: Final = 1

# Decoded factors that are kept for the next range; those of the tensor being read are kept in any case.
CACHE_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, slots=True)
class _Factors:
    """An update's factors in the dtype of the fold: rows of B are read as they are needed, or `left` holds all."""

    right: Tensor  # [r, columns]
    left: Tensor | None  # [rows, r]
    magnitude: Tensor | None  # [rows]

    @property
    def nbytes(self) -> int:
        held = (self.right, self.left, self.magnitude)
        return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)


class FoldedCheckpoint(Checkpoint):
    """A base with an adapter folded in; what the adapter leaves alone is the base's, byte by byte.

    A folded tensor is float32, or float64 if anything it is made of is: nothing is rounded to the base's dtype before
    an op has seen it. That dtype is its `native` one, in which it is written unless the recipe says otherwise.
    """

    def __init__(self, base: Checkpoint, adapter: Checkpoint, edits: Mapping[str, Edit]) -> None:
        self.location = base.location
        self.aliases, self.config, self.sidecars = base.aliases, base.config, base.sidecars
        self._base, self._adapter, self._edits = base, adapter, edits
        self.tensors = {name: self._spec(spec) for name, spec in base.tensors.items()}
        self.native = {name: base.tensors[name].dtype for name in edits} | dict(base.native)
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, _Factors] = OrderedDict()

    def parts(self) -> tuple[Checkpoint, ...]:
        """Return the base, the adapter and itself."""
        return (*self._base.parts(), *self._adapter.parts(), self)

    def expect(self, names: Collection[str]) -> None:
        """Tell the base and the adapter which of their tensors will be read."""
        origins = [self._origin(name) for name in names]
        updates = [update for name in names if (update := self._edits.get(name, Edit()).update)]
        used = [source for where, source in origins if where is self._adapter]
        used += [part for update in updates for part in update.parts()]
        self._base.expect([source for where, source in origins if where is self._base])
        self._adapter.expect(used)

    def doing(self) -> str:
        """Return what the base or the adapter is busy with."""
        return self._base.doing() or self._adapter.doing()

    def whole_file_bytes(self) -> int:
        """Return the bytes that decoded factors may take."""
        updates = [edit.update for edit in self._edits.values() if edit.update]
        sizes = [self._decoded_bytes(update) for update in updates]
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
        what = ("fold", VERSION, BLOCK, where.identity(source), *used, update.scale, update.transposed)
        return xxh3_128_digest(repr(what).encode())

    def close(self) -> None:
        """Close the base and the adapter."""
        self._base.close()
        self._adapter.close()

    def _origin(self, name: str) -> tuple[Checkpoint, str]:
        """Return where the tensor that an update is added to is read: the base, or the adapter that replaces it."""
        replacement = self._edits.get(name, Edit()).replacement
        return (self._base, name) if replacement is None else (self._adapter, replacement)

    def _spec(self, spec: TensorSpec) -> TensorSpec:
        where, source = self._origin(spec.name)
        update = self._edits.get(spec.name, Edit()).update
        dtype = where.tensors[source].dtype
        if update is not None:
            dtype = promote([dtype, "F32", *(self._adapter.tensors[part].dtype for part in update.parts())])
        return spec.with_(dtype=dtype)

    def _decoded_bytes(self, update: Update) -> int:
        held = [update.a, update.magnitude, update.b if update.transposed else None]
        return sum(8 * self._adapter.tensors[part].numel for part in held if part)

    def _fold(self, name: str, update: Update, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from the blocks of rows that its bytes lie in."""
        spec = self.tensors[name]
        stop, out = start + buffer.nbytes, buffer.cast("B") if buffer.nbytes else buffer
        if start < 0 or stop > spec.nbytes:
            raise ValueError(f"{name}: bytes {start} to {stop} of {spec.nbytes}")
        if stop == start:
            return
        factors = self._factors(name, update)
        rows = max(1, BLOCK // spec.row)
        width = nbytes(rows * spec.row, spec.dtype)
        for at in range(start // width * width, stop, width):
            block = memoryview(self._block(name, update, factors, at // width * rows, rows))
            low, high = max(start, at), min(stop, at + block.nbytes)
            out[low - start : high - start] = block[low - at : high - at]

    def _block(self, name: str, update: Update, factors: _Factors, first: int, rows: int) -> memoryview:
        """Return the bytes of a block of rows."""
        import torch

        spec = self.tensors[name]
        total = spec.numel // spec.row
        last = min(first + rows, total)
        where, source = self._origin(name)
        W = _read(where, source, first * spec.row, last * spec.row, spec.dtype).view(last - first, spec.row)
        left = factors.left[first:last] if factors.left is not None else None
        W.add_((self._left(update, first, last, spec.dtype) if left is None else left) @ factors.right)
        if factors.magnitude is not None:
            lengths = torch.linalg.vector_norm(W, dim=1, dtype=torch.float64)
            W.mul_((factors.magnitude[first:last].double() / lengths).to(W.dtype).unsqueeze(1))
        return W.view(-1).view(torch.uint8).numpy().data

    def _left(self, update: Update, first: int, last: int, dtype: str) -> Tensor:
        """Return rows first to last of scale·B [rows, r]; a bias counts as a column."""
        rank = self._adapter.tensors[update.b].row
        return (
            _read(self._adapter, update.b, first * rank, last * rank, dtype).view(-1, rank).mul_(update.scale)
        )

    def _factors(self, name: str, update: Update) -> _Factors:
        """Return an update's decoded factors; those of the tensors read last are kept."""
        with self._lock:
            if name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
        made = self._decode(update, self.tensors[name].dtype)
        with self._lock:
            self._cache[name] = made
            while len(self._cache) > 1 and sum(f.nbytes for f in self._cache.values()) > CACHE_BYTES:
                self._cache.popitem(last=False)
        return made

    def _decode(self, update: Update, dtype: str) -> _Factors:
        import torch

        whole = {part: self._whole(part, dtype) for part in (update.a, update.magnitude) if part}
        magnitude = whole[update.magnitude].view(-1) if update.magnitude else None
        if update.a is None:
            ones = torch.ones(1, 1, dtype=torch.float64 if dtype == "F64" else torch.float32)
            return _Factors(ones, None, magnitude)
        A = whole[update.a].flatten(1)
        if not update.transposed:
            return _Factors(A, None, magnitude)
        B = self._whole(update.b, dtype).flatten(1).mul_(update.scale)
        return _Factors(B.T.contiguous(), A.T.contiguous(), magnitude)

    def _whole(self, part: str, dtype: str) -> Tensor:
        spec = self._adapter.tensors[part]
        return _read(self._adapter, part, 0, spec.numel, dtype).view(spec.shape)


def _read(where: Checkpoint, name: str, first: int, last: int, dtype: str) -> Tensor:
    """Return elements first to last of a stored tensor in the dtype of the fold, in memory of their own."""
    import torch

    from surgery.math.convert import as_tensor, torch_dtype

    tag = where.tensors[name].dtype
    raw = torch.empty(nbytes(last - first, tag), dtype=torch.uint8)
    where.read_into(name, nbytes(first, tag), raw.numpy().data)
    return as_tensor(raw, tag).to(torch_dtype(dtype))
