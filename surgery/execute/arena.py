"""Scratch memory of one worker: buffers that are touched once and used again for every chunk.

First touch of fresh memory costs several times what the arithmetic does, so nothing here is allocated per chunk.
"""

from __future__ import annotations

import torch


class Arena:
    """Hands out buffers one after another; `reset` makes all of them free again."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pools: dict[tuple[torch.dtype, bool], list[torch.Tensor]] = {}
        self._next: dict[tuple[torch.dtype, bool], int] = {}

    def take(self, numel: int, dtype: torch.dtype) -> torch.Tensor:
        """Return a flat buffer on the device with undefined values."""
        return self._take(numel, dtype, host=False)

    def staging(self, nbytes: int) -> torch.Tensor:
        """Return bytes on the host that files are read into and written from; pinned if the device is not the CPU."""
        return self._take(nbytes, torch.uint8, host=True)

    def give_back_staging(self) -> None:
        """Make the staging bytes taken last free again."""
        self._next[(torch.uint8, True)] -= 1

    def reset(self) -> None:
        """Make every buffer free."""
        for key in self._next:
            self._next[key] = 0

    def _take(self, numel: int, dtype: torch.dtype, *, host: bool) -> torch.Tensor:
        key = (dtype, host)
        pool = self._pools.setdefault(key, [])
        index = self._next.get(key, 0)
        self._next[key] = index + 1
        if index == len(pool):
            pool.append(self._new(numel, dtype, host=host))
        elif pool[index].numel() < numel:
            pool[index] = self._new(numel, dtype, host=host)
        return pool[index][:numel]

    def _new(self, numel: int, dtype: torch.dtype, *, host: bool) -> torch.Tensor:
        if host:
            return torch.empty(numel, dtype=dtype, pin_memory=self.device.type == "cuda")
        return torch.empty(numel, dtype=dtype, device=self.device)
