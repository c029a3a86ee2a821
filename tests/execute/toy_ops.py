"""Ops for the engine's tests, at least one for every split; some break the contract on purpose.

Given to the engine as a plugin file: `surgery.load(recipe, plugins=["toy_ops.py"])`.
"""

import os
import signal
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from surgery import (
    Description,
    Group,
    Layout,
    Need,
    Params,
    Part,
    Reduce,
    Scalar,
    Scan,
    Space,
    Split,
    Take,
    layout_op,
    op,
)
from surgery.errors import PlanError
from surgery.tensors import TensorSpec


class Weight(Params):
    weight: Scalar = 1.0


class Factor(Params):
    factor: Scalar = 1.0


@op("toy.linear", each=Weight, propagates=True)
def linear(x: Any, p: Any) -> torch.Tensor:
    """Add weighted models."""
    weights = [each.weight for each in x.signature.each]
    out = torch.mul(x.models[0], weights[0], out=x.out)
    for model, weight in zip(x.models[1:], weights[1:], strict=True):
        out.add_(model, alpha=weight)
    return out


@op("toy.scale", params=Factor, models=1, propagates=True)
def scale(x: Any, p: Factor) -> torch.Tensor:
    """Multiply by a number."""
    return torch.mul(x.models[0], p.factor, out=x.out)


@op("toy.delta", base="required", models=1, propagates=True)
def delta(x: Any, p: Any) -> torch.Tensor:
    """Subtract the base."""
    return torch.sub(x.models[0], x.base, out=x.out)


@op("toy.positive", models=1)
def positive(x: Any, p: Any) -> torch.Tensor:
    """Keep what is above zero: a NaN is lost on the way."""
    return torch.where(x.models[0] > 0, x.models[0], torch.zeros_like(x.models[0]))


@op("toy.sigmoid", models=1)
def sigmoid(x: Any, p: Any) -> torch.Tensor:
    """Squash: torch rounds the last few elements of a buffer otherwise than those in full vectors."""
    return torch.sigmoid(x.models[0])


@op("toy.wide", models=1)
def wide(x: Any, p: Any) -> torch.Tensor:
    """Return float64, whatever the compute dtype."""
    return x.models[0].double() * (1 + 2.0**-30)


@op("toy.dither", params=Factor, models=1, buffers=2)
def dither(x: Any, p: Factor) -> torch.Tensor:
    """Add noise from two streams."""
    noise = torch.mul(x.uniform(0), -1, out=x.scratch(1))
    noise.add_(x.uniform(1))
    return torch.add(x.models[0], noise, alpha=p.factor, out=x.out)


@op("toy.row_max", split=Split.ROW, models=1)
def row_max(x: Any, p: Any) -> torch.Tensor:
    """Divide each row by its largest magnitude."""
    return x.models[0] / x.models[0].abs().amax(1, keepdim=True)


@op("toy.row_index", split=Split.ROW, base="required", models=1)
def row_index(x: Any, p: Any) -> torch.Tensor:
    """Add the first element of the base's row, and the row's index in the tensor."""
    rows, row = x.models[0].shape
    index = x.start // row + torch.arange(rows, dtype=x.models[0].dtype, device=x.models[0].device)
    return x.models[0] + x.base[:, :1] + index[:, None]


@op("toy.norm", models=1)
class Norm(Reduce):
    """Divide by the norm; the sum is in float32, so that its order shows."""

    def gather(self, x: Any, p: Any, found: Any) -> float:
        return float(x.models[0].square().sum())

    def fold(self, total: float, part: float) -> float:
        return float(torch.tensor(total) + torch.tensor(part))

    def apply(self, x: Any, p: Any, found: float) -> torch.Tensor:
        return x.models[0] / found**0.5


@op("toy.standard", models=(1, None))
class Standard(Reduce):
    """Add the models, subtract the mean, divide by the deviation: two gathers."""

    gathers = 2

    def gather(self, x: Any, p: Any, found: Any) -> list[float]:
        total = sum(x.models)
        if found is None:
            return [float(total.sum()), total.numel()]
        return [float((total - found[0]).square().sum()), total.numel()]

    def fold(self, total: list[float], part: list[float]) -> list[float]:
        total[0] += part[0]
        total[1] += part[1]
        return total

    def solve(self, signature: Any, p: Any, total: list[float], found: Any) -> list[float]:
        mean = total[0] / total[1]
        return [mean] if found is None else [found[0], mean**0.5]

    def apply(self, x: Any, p: Any, found: list[float]) -> torch.Tensor:
        return (sum(x.models) - found[0]) / found[1]


@op("toy.sampled", models=1, base="optional")
class Sampled(Reduce):
    """Divide by the largest element of a sample, times the share of elements above it in the whole."""

    gathers = 2

    def scan(self, signature: Any, p: Any, found: Any, done: int) -> Scan | None:
        return (Scan.SAMPLE, Scan.ALL, None)[done]

    def gather(self, x: Any, p: Any, found: Any) -> float:
        seen = x.models[0] if x.base is None else x.models[0] - x.base
        return float(seen.max()) if found is None else float((seen >= found).sum())

    def solve(self, signature: Any, p: Any, total: float, found: Any) -> Any:
        return total if found is None else (found, total)

    def apply(self, x: Any, p: Any, found: tuple[float, float]) -> torch.Tensor:
        return x.models[0] / (found[0] * found[1])


@op("toy.gram", split=Split.TENSOR, models=1)
def gram(x: Any, p: Any) -> torch.Tensor:
    """Return x xT x / n, in float64 on the way."""
    matrix = x.models[0].double()
    return (matrix @ matrix.T @ matrix / matrix.shape[0]).to(x.models[0].dtype)


@op("toy.solve", split=Split.TENSOR, base="required", models=2)
def solve(x: Any, p: Any) -> torch.Tensor:
    """Combine whole tensors of two models and a base, in float64 to the end."""
    first, second, base = x.models[0].double(), x.models[1].double(), x.base.double()
    return base + (first - base) @ base.new_ones(base.shape[1], base.shape[1]) - second / 3


def _flipped(signature: Any, p: Any) -> TensorSpec:
    first = signature.first
    return TensorSpec(signature.name, first.shape[::-1], first.dtype)


@op("toy.transpose", split=Split.TENSOR, models=1, infer=_flipped)
def transpose(x: Any, p: Any) -> torch.Tensor:
    """Transpose: a result of another shape, and a view."""
    return x.models[0].T


class LayerOf(Params):
    how: Literal["share", "lose", "extra", "list", "write", "raise"] = "share"


@op("toy.share", params=LayerOf, models=1)
class Share(Group):
    """Add to every tensor of a layer the sum of all members' means; tensors outside of layers stay."""

    def key(self, tensor: Any, p: LayerOf) -> Hashable | None:
        return tensor.role.layer

    def apply(self, members: Mapping[str, Any], p: LayerOf) -> Any:
        mean = sum(float(x.models[0].double().mean()) for x in members.values())
        results = {name: x.models[0] + mean for name, x in members.items()}
        first = min(results)
        if p.how == "lose":
            del results[first]
        if p.how == "extra":
            results["other"] = results[first]
        if p.how == "write":
            members[first].models[0].zero_()
        if p.how == "raise":
            raise ValueError("no such heads")
        return list(results) if p.how == "list" else results


class LargestOf(Reduce):
    """Divide by the largest magnitude of what is gathered, times its elements: two gathers."""

    gathers = 2

    def gather(self, x: Any, p: Any, found: Any) -> tuple[float, int]:
        seen = x.models[0].abs()
        if found is None:
            return float(seen.max()), x.signature.numel
        return float((seen == found[0]).sum()), x.signature.numel

    def fold(self, total: tuple[float, int], part: tuple[float, int]) -> tuple[float, int]:
        assert total[1] == part[1]
        return max(total[0], part[0]), total[1]

    def solve(self, signature: Any, p: Any, total: tuple[float, int], found: Any) -> tuple[float, ...]:
        assert signature.numel == total[1]
        return total if found is None else (found[0], total[0], signature.numel)

    def apply(self, x: Any, p: Any, found: tuple[float, ...]) -> torch.Tensor:
        assert x.signature.numel == found[2]
        return x.models[0] / found[0] * found[1] + found[2]


@op("toy.largest", split=Split.MODEL, each=Weight)
class Largest(LargestOf):
    """Divide by the largest magnitude in the whole model, times the model's elements."""


@op("toy.layer_largest", split=Split.MODEL, each=Weight, pool=lambda signature, p: signature.role.layer)
class LayerLargest(LargestOf):
    """Divide by the largest magnitude in the layer, times the layer's elements."""


class Cut(Params):
    rows: tuple[int, int] = (0, 1)


@layout_op("toy.cut", params=Cut, models=1)
def cut(models: Mapping[str, Any], p: Cut) -> Layout:
    """Take some rows of every matrix, and the rest as it is."""
    ((name, view),) = models.items()
    if p.rows[0] >= p.rows[1]:
        raise PlanError(f"rows {p.rows} are none; give some")
    takes = {
        tensor: Take(name, tensor, p.rows if len(info.spec.shape) > 1 else None)
        for tensor, info in view.tensors.items()
    }
    return Layout(takes, view.config)


class Bad(Params):
    how: Literal["shape", "int", "half", "none", "raise", "write", "nan", "memory", "big", "device"] = "raise"


def misbehave(x: Any, how: str) -> Any:
    """Break the contract."""
    first = x.models[0]
    match how:
        case "shape":
            return first[:-1]
        case "int":
            return first.long()
        case "half":
            return first.half()
        case "none":
            return None
        case "raise":
            raise ZeroDivisionError("division by zero")
        case "write":
            return first.mul_(2)
        case "nan":
            return first * float("nan")
        case "memory":
            raise MemoryError
        case "device":
            return first.to("meta")
    return first * 1e10


@op("toy.bad", params=Bad, models=1)
def bad(x: Any, p: Bad) -> Any:
    """Break the contract on ranges."""
    return misbehave(x, p.how)


@op("toy.bad_rows", split=Split.ROW, params=Bad, models=1)
def bad_rows(x: Any, p: Bad) -> Any:
    """Break the contract on rows."""
    return misbehave(x, p.how)


@op("toy.bad_tensor", split=Split.TENSOR, params=Bad, models=1)
def bad_tensor(x: Any, p: Bad) -> Any:
    """Break the contract on a whole tensor."""
    return misbehave(x, p.how)


class BadReduction(Params):
    part: Literal["scan", "gather", "fold", "solve", "apply", "write", "draw"]


def _maybe(wanted: str, part: str) -> None:
    if wanted == part:
        raise ValueError(f"{part} went wrong")


@op(
    "toy.bad_reduce",
    split=lambda p: Split.REDUCE,
    splits=[Split.REDUCE],
    params=BadReduction,
    models=1,
    propagates=True,
)
class BadReduce(Reduce):
    """Break the contract in one part of a reduction."""

    def scan(self, signature: Any, p: BadReduction, found: Any, done: int) -> Scan | None:
        _maybe(p.part, "scan")
        return None if done else Scan.SAMPLE if p.part == "draw" else Scan.ALL

    def gather(self, x: Any, p: BadReduction, found: Any) -> int:
        _maybe(p.part, "gather")
        if p.part == "write":
            x.models[0].zero_()
        if p.part == "draw":
            x.uniform()
        return 1 if p.part != "fold" else _Unaddable()

    def solve(self, signature: Any, p: BadReduction, total: Any, found: Any) -> Any:
        _maybe(p.part, "solve")
        return total

    def apply(self, x: Any, p: BadReduction, found: Any) -> torch.Tensor:
        _maybe(p.part, "apply")
        return x.models[0]


@dataclass
class _Unaddable:
    def __add__(self, other: object) -> None:
        raise ValueError("fold went wrong")


class Slow(Params):
    seconds: float = 0.01
    # a file that says how long to sleep, at the how-manieth chunk to send which signal: it is no part of the
    # recipe, so that the run that goes on is one of the same recipe
    control: str = ""


@op("toy.slow", params=Slow, models=1)
def slow(x: Any, p: Slow) -> torch.Tensor:
    """Double, slowly; `control` with `.log` behind it is a file that gets a byte for every chunk."""
    if p.control:
        _obey(p.control)
    else:
        time.sleep(p.seconds)
    return x.models[0] * 2


def _obey(control: str) -> None:
    with open(f"{control}.log", "ab") as log:
        log.write(b".")
        chunk = log.tell()
    with open(control) as file:
        seconds, at, name = file.read().split()
    time.sleep(float(seconds))
    if chunk == int(at):
        os.kill(os.getpid(), getattr(signal, name))


@op("toy.centered", split=Split.TENSOR, models=1)
def centered(x: Any, p: Any) -> torch.Tensor:
    """Subtract each column's mean; the temporaries are those that an op is taken to have by default."""
    first = x.models[0]
    copies = [first + i for i in range(3)]
    return copies[1] - copies[1].mean(0)


def pair(signature: Any, p: Any) -> list[Part]:
    """Codes, a scale for each row, a bit for every two rows, and the shape."""
    name, (rows, columns) = signature.name, signature.first.shape
    return [
        Part(TensorSpec(f"{name}.codes", (rows, columns), "I8")),
        Part(TensorSpec(f"{name}.scale", (rows, 1), "BF16")),
        Part(TensorSpec(f"{name}.pairs", (-(-rows // 2), columns), "F32"), rows=2),
        Part(TensorSpec(f"{name}.shape", (2,), "I64"), rows=0),
    ]


def packed_config(made: Any, p: Any) -> Description:
    """Tell what was packed."""
    config = {**made.config, "packed": sorted(made.changed), "kept": sorted(made.kept)}
    return Description(config, config_file="packed.json", stem="codes", sidecars=False)


@op(
    "toy.pack",
    split=Split.ROW,
    models=1,
    vectors="skip",
    gives=Space.PACKED,
    emits=pair,
    describe=packed_config,
)
def pack(x: Any, p: Any) -> dict[str, torch.Tensor]:
    """Round to codes with a scale for each row."""
    (w,) = x.models
    name = x.signature.name
    scale = w.abs().amax(1, keepdim=True) / 100
    odd = torch.nn.functional.pad(w, (0, 0, 0, len(w) % 2))
    made = {
        f"{name}.codes": torch.round(w / scale).to(torch.int8),
        f"{name}.scale": scale,
        f"{name}.pairs": odd[0::2] + odd[1::2],
    }
    if x.start == 0:
        made[f"{name}.shape"] = torch.tensor(x.signature.first.shape)
    return made


def halves(signature: Any, p: Any) -> list[Part]:
    name, (rows, columns) = signature.name, signature.first.shape
    return [Part(TensorSpec(f"{name}.{side}", (rows, columns), "F32")) for side in ("q", "r")]


@op("toy.split", split=Split.TENSOR, models=1, vectors="skip", emits=halves)
def split(x: Any, p: Any) -> dict[str, torch.Tensor]:
    """Split a matrix into its part above the mean and the rest."""
    (w,) = x.models
    above = torch.where(w > w.mean(), w, torch.zeros_like(w))
    return {f"{x.signature.name}.q": above, f"{x.signature.name}.r": w - above}


@op(
    "toy.over_norm",
    models=1,
    vectors="skip",
    emits=lambda s, p: [Part(TensorSpec(f"{s.name}.n", s.first.shape, "F32"))],
)
class OverNorm(Reduce):
    """Divide by the largest magnitude of the tensor, as a tensor of another name."""

    def gather(self, x: Any, p: Any, found: Any) -> float:
        return float(x.models[0].abs().max())

    def fold(self, total: float, part: float) -> float:
        return max(total, part)

    def apply(self, x: Any, p: Any, found: float) -> Any:
        return {f"{x.signature.name}.n": x.models[0] / found}


class Fault(Params):
    fault: Literal["names", "shape", "dtype", "type"]


@op(
    "toy.bad_emit",
    split=Split.ROW,
    models=1,
    params=Fault,
    emits=lambda s, p: [Part(TensorSpec(f"{s.name}.c", s.first.shape, "I8"))],
)
def bad_emit(x: Any, p: Fault) -> Any:
    """Emit something else than was declared."""
    codes = x.models[0].to(torch.int8)
    name = f"{x.signature.name}.c"
    return {
        "names": {"c": codes},
        "shape": {name: codes[:, :1]},
        "dtype": {name: x.models[0]},
        "type": codes,
    }[p.fault]


@op("toy.activations", split=Split.ROW, models=1, vectors="skip", needs=[Need.SQUARES])
def activations(x: Any, p: Any) -> torch.Tensor:
    """Multiply each column by what its inputs add up to."""
    return x.models[0] * x.statistics[Need.SQUARES].to(x.models[0])


@op("toy.negative", split=Split.TENSOR, models=1)
def negative(x: Any, p: Any) -> torch.Tensor:
    """Change signs of a whole tensor, in the buffer that the engine offers."""
    return torch.neg(x.models[0], out=x.out)
