"""Where tensors are computed, and how bytes get there and back. accelerate is imported here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from surgery.errors import ResourceError
from surgery.execute.arena import Arena
from surgery.schedule.options import Device

# On an accelerator a chunk must hide the cost of starting kernels and copies; on a CPU it must fit the cache.
ACCELERATOR_CHUNK = 64 * (1 << 17)


@dataclass(frozen=True, slots=True)
class Place:
    """One worker's device, with a stream of its own where there are streams."""

    device: torch.device
    stream: torch.cuda.Stream | None = field(default=None, repr=False)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Make the device and stream current in this thread."""
        if self.stream is None:
            yield
        else:
            with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
                yield

    def to_device(self, raw: torch.Tensor, arena: Arena) -> torch.Tensor:
        """Return bytes on the device; a copy from pinned memory that the stream orders before their use."""
        there = arena.take(raw.numel(), torch.uint8)
        there.copy_(raw, non_blocking=True)
        return there

    def to_host(self, raw: torch.Tensor, here: torch.Tensor) -> None:
        """Copy bytes of the device to the host, after everything that the stream was given is done."""
        here.copy_(raw, non_blocking=True)
        self.finish()

    def finish(self) -> None:
        """Wait until buffers may be used again."""
        if self.stream is not None:
            self.stream.synchronize()


@dataclass(frozen=True, slots=True)
class World:
    """The processes of this run: `accelerate launch` starts several, each with a rank and a device of its own."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def gather(self, thing: object) -> list[object]:
        """Return what every process gave, in the order of ranks, to all of them."""
        if self.size == 1:
            return [thing]
        import torch.distributed as dist

        things: list[object] = [None] * self.size
        try:
            dist.all_gather_object(things, thing)
        except RuntimeError as error:  # the connection breaks when a process ends
            raise ResourceError(
                f"process {self.rank}: another process of this run has ended; see its message, then run again"
            ) from error
        return things


def world(wanted: Device) -> World:
    """Return this process's place among the processes of the run, and its device.

    Raises ResourceError if a device is asked for that is not there, or if processes were started that do not know
    of each other: they would all write the whole output.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started == 1 and wanted != "cuda" and not (wanted == "auto" and torch.cuda.is_available()):
        return World()
    from accelerate import PartialState

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ResourceError("--device cuda: this machine has no CUDA device; use --device cpu")
    state = PartialState(cpu=wanted == "cpu" or not torch.cuda.is_available())
    if state.num_processes != started:
        raise ResourceError(
            f"{started} processes were started but each believes to be one of {state.num_processes}; "
            "on machines without a GPU set ACCELERATE_USE_CPU=1 before `accelerate launch --multi_gpu`"
        )
    return World(state.process_index, state.num_processes, torch.device(state.device))


def places(world: World, workers: int) -> list[Place]:
    """Return a place for each worker: threads of a CPU, or streams of the process's accelerator."""
    if world.device.type != "cuda":
        return [Place(torch.device("cpu"))] * workers
    return [Place(world.device, torch.cuda.Stream(world.device)) for _ in range(workers)]  # type: ignore[no-untyped-call]


def device_memory(world: World) -> int | None:
    """Return the bytes that can be had on the accelerator, with headroom; None on a CPU."""
    if world.device.type != "cuda":
        return None
    from accelerate.utils import get_max_memory

    free = get_max_memory()[world.device.index or 0]
    return int(free) * 9 // 10
