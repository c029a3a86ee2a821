"""One tensor's change, stored and read back in memory; small models on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import surgery
from surgery import RunOptions
from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.math.convert import as_tensor
from surgery.ops import Op
from surgery.tensors import Role
from surgery.testing import run_emitting_op
from surgery_delta._applied import DeltaCheckpoint
from surgery_delta._kinds import KINDS
from surgery_delta._read import read_headers

UP = Role("mlp.up", layer=0)


def stored(
    op: Op, model: Any, base: Any = None, *, role: Role = UP, rows: int | None = None, **params: Any
) -> dict[str, torch.Tensor]:
    """Return what is stored of a weight `w` by suffix ("" for `w` itself); the base is 0 unless it is given."""
    model = torch.as_tensor(model)
    base = torch.zeros_like(model) if base is None else torch.as_tensor(base)
    made = run_emitting_op(op, params, [model], base, name="w", role=role, rows=rows)
    return {name.removeprefix("w").lstrip("."): value for name, value in made.items()}


def applied(op: Op, made: dict[str, torch.Tensor], base: torch.Tensor, **params: Any) -> Checkpoint:
    """Return a base with what is stored added to it."""
    delta = MemoryCheckpoint({f"w.{suffix}" if suffix else "w": t.clone() for suffix, t in made.items()})
    bases = MemoryCheckpoint({"w": base}, location="./base")
    found = read_headers(delta, bases, KINDS[op.name.removeprefix("delta.")].params(**params))
    assert [*found.problems()] == []
    return DeltaCheckpoint(bases, delta, found.changes, found.whole, "org/base")


def back(op: Op, model: Any, base: Any = None, *, role: Role = UP, **params: Any) -> torch.Tensor:
    """Return a weight after a round trip."""
    model = torch.as_tensor(model)
    base = torch.zeros_like(model) if base is None else torch.as_tensor(base)
    return read(applied(op, stored(op, model, base, role=role, **params), base, **params))


def read(checkpoint: Checkpoint, name: str = "w", start: int = 0, size: int | None = None) -> torch.Tensor:
    """Return a tensor, or bytes of it."""
    spec = checkpoint.tensors[name]
    raw = bytearray(spec.nbytes if size is None else size)
    checkpoint.read_into(name, start, memoryview(raw))
    return torch.frombuffer(raw, dtype=torch.uint8) if size else as_tensor(raw, spec.dtype).view(spec.shape)


def run(folder: Path, text: str, **options: Any) -> None:
    """Run a recipe of `folder`."""
    surgery.loads("surgery: 1\n" + text, folder=folder).run(RunOptions(force=True, device="cpu", **options))


def tensors(folder: Path, model: str) -> dict[str, torch.Tensor]:
    """Return a model that a recipe names, in float32."""
    text = f"surgery: 1\nmodels: {{m: {model}}}\noutput: {{model: m, dtype: float32}}\n"
    return dict(surgery.state_dict(surgery.loads(text, folder=folder)))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return random numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
