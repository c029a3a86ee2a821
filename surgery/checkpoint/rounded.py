"""A checkpoint whose floating-point tensors are rounded to one dtype while they are read."""

from __future__ import annotations

from xxhash import xxh3_128_digest

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.checkpoint.view import View
from surgery.tensors import DTYPES, TensorSpec


class RoundedCheckpoint(View):
    """A view in which every tensor that arithmetic is defined on is of dtype `dtype` (a safetensors tag).

    Numbers are rounded to nearest even, so that a computation starts from what a file of that dtype would hold.
    Tensors of that dtype, integers and codes are passed on byte by byte.
    """

    def __init__(self, inner: Checkpoint, dtype: str) -> None:
        super().__init__(inner)
        self._inner, self._dtype = inner, dtype
        self.tensors = {name: self._spec(spec) for name, spec in inner.tensors.items()}
        self.native = {}

    def _spec(self, spec: TensorSpec) -> TensorSpec:
        return spec.with_(dtype=self._dtype) if DTYPES[spec.dtype].arithmetic else spec

    def _same(self, name: str) -> bool:
        return self.tensors[name].dtype == self._inner.tensors[name].dtype

    def made_of(self, name: str) -> list[tuple[Checkpoint, str]]:
        """Return the tensor of that name."""
        return [(self._inner, name)]

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with bytes of a tensor, rounded as it is read."""
        if self._same(name):
            self._inner.read_into(name, start, buffer)
        elif buffer.nbytes:
            stop, size = start + buffer.nbytes, DTYPES[self._dtype].bits // 8
            first, last = start // size, -(-stop // size)
            made = self._numbers(name, first, last)
            buffer.cast("B")[:] = made[start - first * size : stop - first * size]

    def _numbers(self, name: str, first: int, last: int) -> memoryview:
        """Return the bytes of elements first to last, rounded."""
        import torch

        tag = self._inner.tensors[name].dtype
        raw = bytearray((last - first) * DTYPES[tag].bits // 8)
        self._inner.read_into(name, first * DTYPES[tag].bits // 8, memoryview(raw))
        read = torch.frombuffer(raw, dtype=getattr(torch, str(DTYPES[tag].torch)))
        made = read.to(getattr(torch, str(DTYPES[self._dtype].torch)))
        data: memoryview = made.view(torch.uint8).numpy().data
        return data

    def prefetch(self, name: str, start: int, nbytes: int) -> None:
        """Ask the system to read ahead what the stretch is made from."""
        ours, theirs = DTYPES[self.tensors[name].dtype].bits, DTYPES[self._inner.tensors[name].dtype].bits
        self._inner.prefetch(name, start * theirs // ours, nbytes * theirs // ours)

    def extent(self, name: str) -> Extent | None:
        """Return where a tensor lies that is passed on; None for one that is rounded."""
        return self._inner.extent(name) if self._same(name) else None

    def identity(self, name: str) -> bytes:
        """Return a digest of the tensor that is read and of what it is rounded to."""
        before = self._inner.identity(name)
        return before if self._same(name) else xxh3_128_digest(repr((before, self._dtype)).encode())
