"""A checkpoint whose quantized tensors look like what they stand for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from xxhash import xxh3_128_digest

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.checkpoint.view import View
from surgery.tensors import nbytes
from surgery_hf.quantized.claims import SETTINGS
from surgery_hf.quantized.tiles import Codec, tiles

# Raise it when a decoder's numbers change: what was journaled with the old ones is then computed again.
VERSION: Final = 1


class DecodedCheckpoint(View):
    """Shows `codecs`' tensors in the places of their codes and hides `hidden`; all others are read as bytes.

    Reading a range reads and decodes the stored stretches that it touches, in tiles of bounded size. Closing it closes
    the checkpoint that it wraps.
    """

    def __init__(self, stored: Checkpoint, codecs: Mapping[str, Codec], hidden: Collection[str]) -> None:
        super().__init__(stored)
        self._stored, self._codecs = stored, dict(codecs)
        by_codes = {codec.parts[0].name: codec.spec for codec in codecs.values()}
        specs = (by_codes.get(name, spec) for name, spec in stored.tensors.items() if name not in hidden)
        self.tensors = {spec.name: spec for spec in specs}
        self.config = {k: v for k, v in stored.config.items() if k not in SETTINGS}

    def made_of(self, name: str) -> list[tuple[Checkpoint, str]]:
        """Return the stored tensors: codes, scales and the rest."""
        codec = self._codecs.get(name)
        names = [name] if codec is None else [part.name for part in codec.parts]
        return [(self._stored, each) for each in names]

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on, decoding what they touch."""
        codec = self._codecs.get(name)
        if codec is None:
            self._stored.read_into(name, start, buffer)
            return
        stop = start + buffer.nbytes
        if start < 0 or stop > codec.spec.nbytes:
            raise ValueError(f"{name}: bytes {start} to {stop} of {codec.spec.nbytes}")
        if not buffer.nbytes:
            return
        out, item = buffer.cast("B"), nbytes(1, codec.spec.dtype)
        at = start // item * item  # the byte at which the next tile begins
        for tile in tiles(at // item, -(-stop // item), codec.columns):
            data = codec.decode(self._stored, tile).contiguous().numpy().data.cast("B")
            low, high = max(start - at, 0), min(stop - at, data.nbytes)
            out[at + low - start : at + high - start] = data[low:high]
            at += data.nbytes

    def extent(self, name: str) -> Extent | None:
        """Return where the tensor's codes lie."""
        return self._stored.extent(self._codes(name))

    def identity(self, name: str) -> bytes:
        """Return a digest of all parts' identities and of how they are decoded."""
        codec = self._codecs.get(name)
        if codec is None:
            return self._stored.identity(name)
        parts = [self._stored.identity(part.name) for part in codec.parts]
        return xxh3_128_digest(repr((VERSION, codec, parts)).encode())

    def prefetch(self, name: str, start: int, nbytes: int) -> None:
        """Ask the system to read the stretch of codes ahead."""
        codec = self._codecs.get(name)
        if codec is None:
            self._stored.prefetch(name, start, nbytes)
        elif codec.spec.nbytes:
            share = codec.parts[0].nbytes / codec.spec.nbytes
            self._stored.prefetch(codec.parts[0].name, int(start * share), int(nbytes * share))

    def _codes(self, name: str) -> str:
        return self._codecs[name].parts[0].name if name in self._codecs else name
