"""LoCon's Tucker factors of convolutions as LoRA's two: LyCORIS stores a small kernel between two 1 × 1 factors.

lora_down.weight  A [r, in, 1, 1]     lora_mid.weight  M [r, r, kh, kw]     lora_up.weight  B [out, r, 1, 1]

ΔW[o, c, y, x] = Σ B[o, i]·M[i, j, y, x]·A[j, c]: the factors B and M·A [r, in, kh, kw] of a LoRA
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_128_digest

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.checkpoint.view import View
from surgery.tensors import TensorSpec, promote

if TYPE_CHECKING:
    from torch import Tensor

MID: Final = ".lora_mid.weight"
_DOWN: Final = ".lora_down.weight"
_VERSION: Final = 1


def mid_fault(name: str, specs: Mapping[str, TensorSpec]) -> str | None:
    """Return what is wrong with a kernel between two factors that are there, or None."""
    kernel, down = specs[name].shape, specs[name.removesuffix(MID) + _DOWN].shape
    fits = len(kernel) > 2 and len(kernel) == len(down) and kernel[1] == down[0]
    if fits and all(size == 1 for size in down[2:]):
        return None
    return f"a kernel of shape {kernel} does not fit a factor of shape {down}"


class WithoutMids(View):
    """Such a file with the kernels multiplied into the factors down, in float32; all else is as it is stored.

    The kernels must fit. A factor is computed whole: it is small beside the weight that it changes.
    """

    def __init__(self, source: Checkpoint) -> None:
        super().__init__(source)
        self._source = source
        self._mids = {name.removesuffix(MID) + _DOWN: name for name in source.tensors if name.endswith(MID)}
        self.tensors = {
            name: self._spec(spec) for name, spec in source.tensors.items() if not name.endswith(MID)
        }
        self.native = {name: source.tensors[name].dtype for name in self._mids} | dict(source.native)

    def _spec(self, spec: TensorSpec) -> TensorSpec:
        if spec.name not in self._mids:
            return spec
        mid = self._source.tensors[self._mids[spec.name]]
        shape = (mid.shape[0], spec.shape[1], *mid.shape[2:])
        return TensorSpec(spec.name, shape, promote([spec.dtype, mid.dtype, "F32"]))

    def made_of(self, name: str) -> list[tuple[Checkpoint, str]]:
        """Return the stored tensor, and the kernel that is multiplied into it."""
        names = [name, self._mids[name]] if name in self._mids else [name]
        return [(self._source, each) for each in names]

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with bytes of a tensor, multiplied where there is a kernel."""
        if name not in self._mids:
            self._source.read_into(name, start, buffer)
            return
        from surgery.math.stretch import fill_from_blocks

        spec = self.tensors[name]
        fill_from_blocks(spec, spec.shape[0], start, buffer, lambda _: self._product(name))

    def extent(self, name: str) -> Extent | None:
        """Return where a tensor lies that is not computed; None for one that is."""
        return None if name in self._mids else self._source.extent(name)

    def identity(self, name: str) -> bytes:
        """Return a digest of all that a tensor is computed from."""
        stored = self._source.identity(name)
        if name not in self._mids:
            return stored
        kernel = self._source.identity(self._mids[name])
        return xxh3_128_digest(repr(("mid", _VERSION, stored, kernel)).encode())

    def _product(self, name: str) -> Tensor:
        """Return M·A, summed in float64."""
        from surgery.math.convert import torch_dtype

        kernel, down = self._whole(self._mids[name]), self._whole(name).flatten(1)
        made = (kernel.movedim(1, -1) @ down).movedim(-1, 1)
        return made.to(torch_dtype(self.tensors[name].dtype)).contiguous()

    def _whole(self, name: str) -> Tensor:
        from surgery.math.stretch import stretch

        spec = self._source.tensors[name]
        return stretch(self._source, spec, 0, spec.numel).double().view(spec.shape)
