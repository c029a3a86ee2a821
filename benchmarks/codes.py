"""Do two quantizers give the same numbers? All scales and 4-bit codes of two `pack-quantized` folders are compared.

Both divide a weight by its stored scale and round to the nearest code. surgery divides in float32, llm-compressor in
the weights' bfloat16, whose quotients have 8 bits: a weight that lies within such a step of the middle between two
codes may go to either. A code that differs is *explained* when each engine's is what its own arithmetic gives; it is
computed here once more, from the weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import Stored, stored
from numpy.typing import NDArray
from rich.table import Table

GROUP = 128
LOW, HIGH = -8, 7
Floats = NDArray[np.float32]
Words = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Numbers:
    """How many scales and codes there are, how many differ, by how much, and how many of them are explained."""

    scales: int = 0
    scales_differ: int = 0
    codes: int = 0
    codes_differ: int = 0
    explained: int = 0
    largest_step: int = 0
    other_tensors_differ: int = 0

    def __add__(self, other: Numbers) -> Numbers:
        pairs = zip(asdict(self).items(), asdict(other).values(), strict=True)
        return Numbers(**{key: max(a, b) if key == "largest_step" else a + b for (key, a), b in pairs})

    @property
    def same(self) -> bool:
        """Return whether the numbers are the same but for the roundings of bfloat16 quotients."""
        differing = self.scales_differ or self.other_tensors_differ or not self.codes
        return not differing and self.codes_differ == self.explained and self.largest_step <= 1

    def record(self) -> dict[str, object]:
        """Return the counts, and the share of codes that differ."""
        return {
            **asdict(self),
            "share_codes_differ": self.codes_differ / max(self.codes, 1),
            "same": self.same,
        }

    def table(self) -> Table:
        """Return the counts as a table."""
        grid = Table(
            "", "all", "differ", "explained by bfloat16", "by at most", title="against llm-compressor"
        )
        grid.add_row("scales", f"{self.scales:,}", f"{self.scales_differ:,}", "", "")
        share = f"{self.codes_differ:,} ({self.codes_differ / max(self.codes, 1):.3%})"
        grid.add_row("codes", f"{self.codes:,}", share, f"{self.explained:,}", f"{self.largest_step}")
        return grid


def compare(ours: Path, theirs: Path, weights: dict[str, Stored]) -> Numbers:
    """Compare two quantized folders; `weights` are the tensors that both were made of."""
    lefts, rights = stored(ours), stored(theirs)
    found = Numbers(other_tensors_differ=len(lefts.keys() ^ rights.keys()))
    for name in sorted(lefts.keys() & rights.keys()):
        stem = name.removesuffix("_packed")
        if stem != name:
            found += _compare_codes(lefts, rights, stem, weights[stem])
        elif not name.endswith("_scale"):
            found += Numbers(other_tensors_differ=int(_bytes(lefts[name]) != _bytes(rights[name])))
    return found


def _compare_codes(ours: dict[str, Stored], theirs: dict[str, Stored], stem: str, weight: Stored) -> Numbers:
    """Compare one Linear, a band of rows at a time."""
    rows, columns = weight.spec.shape
    if columns % GROUP or ours[f"{stem}_packed"].spec != theirs[f"{stem}_packed"].spec:
        raise ValueError(f"{stem}: the folders hold {stem} packed in different shapes")
    scales = [_scales(side[f"{stem}_scale"]) for side in (ours, theirs)]
    found = Numbers(scales=scales[0].size, scales_differ=int((scales[0] != scales[1]).sum()))
    band = max((8 << 20) // columns, 1)
    for first in range(0, rows, band):
        cut = slice(first, min(first + band, rows))
        packed = [_words(side[f"{stem}_packed"], cut) for side in (ours, theirs)]
        grid = np.repeat(scales[0][cut], GROUP, axis=1)
        found += _compare_band(*packed, _widened(_read(weight, cut, np.uint16)), grid)
    return found


def _compare_band(left: Words, right: Words, weights: Floats, scales: Floats) -> Numbers:
    words = np.nonzero(left != right)
    a, b = _unpacked(left[words]), _unpacked(right[words])
    places = words[0][:, None], words[1][:, None] * 8 + np.arange(8)
    quotients = weights[places] / scales[places]
    differ = a != b
    explained = (_codes(quotients) == a) & (_codes(_rounded(quotients)) == b) & differ
    most = int(np.abs(a - b).max(initial=0))
    return Numbers(
        codes=left.size * 8, codes_differ=int(differ.sum()), explained=int(explained.sum()), largest_step=most
    )


def _codes(quotients: Floats) -> NDArray[np.int32]:
    return np.clip(np.rint(quotients), LOW, HIGH).astype(np.int32)


def _unpacked(words: Words) -> NDArray[np.int32]:
    """Return the 8 codes of each word, the first in the lowest bits."""
    return ((words[:, None] >> (4 * np.arange(8, dtype=np.uint32))) & 15).astype(np.int32) + LOW


def _rounded(values: Floats) -> Floats:
    """Return float32 rounded to bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _scales(tensor: Stored) -> Floats:
    return _widened(_read(tensor, slice(0, tensor.spec.shape[0]), np.uint16))


def _words(tensor: Stored, rows: slice) -> Words:
    return _read(tensor, rows, np.uint32)


def _read(tensor: Stored, rows: slice, dtype: type[Any]) -> NDArray[Any]:
    """Return some rows of a matrix as it lies in the file."""
    columns = tensor.spec.shape[1]
    count = (rows.stop - rows.start) * columns
    offset = tensor.offset + rows.start * columns * np.dtype(dtype).itemsize
    return np.fromfile(tensor.path, dtype, count, offset=offset).reshape(-1, columns)


def _widened(bits: NDArray[np.uint16]) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _bytes(tensor: Stored) -> bytes:
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset)
        return file.read(tensor.nbytes)
