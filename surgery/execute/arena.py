"""Scratch memory of one worker: buffers that are touched once and used again for every chunk.

First touch of fresh memory costs several times what the arithmetic does, so nothing here is allocated per chunk. Nor
are views: a call into torch costs microseconds, as much as the arithmetic on a thousand elements, and a worker that
makes it holds up the others.
"""

from __future__ import annotations

import torch

from surgery.math.convert import torch_dtype


class Staging:
    """Bytes on the host that files are read into and written from, and other views of them."""

    __slots__ = ("_typed", "memory", "raw")

    def __init__(self, raw: torch.Tensor) -> None:
        self.raw = raw
        self.memory: memoryview = raw.numpy().data
        self._typed: dict[str, torch.Tensor] = {}

    def typed(self, tag: str) -> torch.Tensor:
        """Return the bytes as flat elements of a stored dtype."""
        if tag not in self._typed:
            self._typed[tag] = self.raw.view(torch_dtype(tag))
        return self._typed[tag]


class _Pool:
    """Buffers of one kind, handed out one after another, and their views by size."""

    def __init__(self) -> None:
        self.buffers: list[torch.Tensor] = []
        self.views: list[dict[int, torch.Tensor]] = []
        self.stagings: list[dict[int, Staging]] = []
        self.next = 0

    def put(self, buffer: torch.Tensor, index: int) -> None:
        """Put a buffer at a place: a new one, or instead of one that was too small."""
        if index == len(self.buffers):
            self.buffers.append(buffer)
            self.views.append({})
            self.stagings.append({})
        else:
            self.buffers[index], self.views[index], self.stagings[index] = buffer, {}, {}


class Arena:
    """Hands out buffers one after another; `reset` makes all of them free again."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._host = _Pool()
        self._pools: dict[torch.dtype, _Pool] = {}

    def take(self, numel: int, dtype: torch.dtype) -> torch.Tensor:
        """Return a flat buffer on the device with undefined values."""
        pool = self._pools.get(dtype)
        if pool is None:
            pool = self._pools[dtype] = _Pool()
        index = pool.next
        pool.next += 1
        if index == len(pool.buffers) or pool.buffers[index].numel() < numel:
            pool.put(torch.empty(numel, dtype=dtype, device=self.device), index)
        view = pool.views[index].get(numel)
        if view is None:
            view = pool.views[index][numel] = pool.buffers[index][:numel]
        return view

    def staging(self, nbytes: int) -> Staging:
        """Return bytes on the host with undefined values; pinned if the device is not the CPU."""
        pool = self._host
        index = pool.next
        pool.next += 1
        if index == len(pool.buffers) or pool.buffers[index].numel() < nbytes:
            pinned = self.device.type == "cuda"
            pool.put(torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned), index)
        staging = pool.stagings[index].get(nbytes)
        if staging is None:
            staging = pool.stagings[index][nbytes] = Staging(pool.buffers[index][:nbytes])
        return staging

    def give_back_staging(self) -> None:
        """Make the staging bytes taken last free again."""
        self._host.next -= 1

    def reset(self) -> None:
        """Make every buffer free."""
        self._host.next = 0
        for pool in self._pools.values():
            pool.next = 0
