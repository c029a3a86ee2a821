"""Values of nodes, range by range. One evaluator belongs to one worker and computes one chunk at a time.

A chain of ELEMENT ops is computed chunk by chunk without storing what lies between; a REDUCE or MODEL op needs what
its gather passes found, a TENSOR or GROUP op's result is held whole. Both are looked up in `Held`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from surgery.errors import CheckpointError, OpError, SurgeryError
from surgery.execute.arena import Arena
from surgery.execute.chunk import EngineChunk
from surgery.execute.device import Place
from surgery.math.convert import decode, encode
from surgery.math.reduce import first_nonfinite, nan_free
from surgery.ops import Split
from surgery.plan.nodes import Agree, Apply, GroupCall, Member, Node, Rows, Source, inputs_of, sources
from surgery.tensors import DTYPES, nbytes


@dataclass(slots=True)
class Held:
    """What a job holds from one phase to the next, by node: what gathers found, and whole results."""

    found: dict[int, Any] = field(default_factory=dict)
    whole: dict[int, torch.Tensor] = field(default_factory=dict)


def compute_dtype(root: Node) -> torch.dtype:
    """Return float64 if a float64 tensor takes part, else float32."""
    return torch.float64 if any(source.spec.dtype == "F64" for source in sources(root)) else torch.float32


class Evaluator:
    """Computes ranges of nodes on one device with one worker's scratch memory."""

    def __init__(self, place: Place, on_nonfinite: Literal["error", "zero", "keep"]) -> None:
        self.place = place
        self.policy = on_nonfinite
        self.arena = Arena(place.device)
        self.bytes_read = 0
        self._memo: dict[tuple[int, int, int, torch.dtype], torch.Tensor] = {}

    def begin(self) -> None:
        """Forget the last chunk; its buffers are used again."""
        self.arena.reset()
        self._memo.clear()

    def value(self, node: Node, start: int, stop: int, held: Held, dtype: torch.dtype) -> torch.Tensor:
        """Return elements start to stop of a node, flat, in the compute dtype. Must not be written to."""
        key = (id(node), start, stop, dtype)
        if key not in self._memo:
            self._memo[key] = self._compute(node, start, stop, held, dtype)
        return self._memo[key]

    def _compute(self, node: Node, start: int, stop: int, held: Held, dtype: torch.dtype) -> torch.Tensor:
        match node:
            case Source():
                return self._load(node, start, stop, dtype)
            case Rows():
                return self.value(node.node, start + node.start, stop + node.start, held, dtype)
            case Member():
                return held.whole[id(node)][start:stop]
            case Apply() if node.split is Split.TENSOR:
                return held.whole[id(node)][start:stop]
            case Apply() if node.split is Split.ROW:
                return self._rows(node, start, stop, held, dtype)
            case Apply():
                return self._apply(node, start, stop, held, dtype)
            case Agree():
                raise AssertionError("tensors without arithmetic are copied as bytes")

    def _load(self, node: Source, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        tag = node.spec.dtype
        raw = self.arena.staging(nbytes(stop - start, tag))
        node.checkpoint.read_into(node.spec.name, nbytes(start, tag), raw.numpy().data)
        self.bytes_read += raw.numel()
        out = self.arena.take(stop - start, dtype)
        decode(self.place.to_device(raw, self.arena), tag, out)
        if self.place.stream is None:
            self.arena.give_back_staging()  # decoded already: the next input is read into the same cached bytes
        if self.policy == "zero":
            torch.nan_to_num_(out, nan=0.0, posinf=0.0, neginf=0.0)
        return out

    def chunk(self, node: Apply, start: int, stop: int, held: Held, dtype: torch.dtype) -> EngineChunk:
        """Return what an op sees of elements start to stop."""
        models = [self.value(child, start, stop, held, dtype) for child in node.models]
        base = None if node.base is None else self.value(node.base, start, stop, held, dtype)
        return EngineChunk(
            node.signature, models, base, start, self.arena, (node.seed, node.op.name, node.op.version)
        )

    def sample(self, node: Apply, runs: list[tuple[int, int]], held: Held, dtype: torch.dtype) -> EngineChunk:
        """Return what an op sees of several short ranges, one after another."""
        total = sum(stop - start for start, stop in runs)
        children = inputs_of(node)
        joined = [torch.empty(total, dtype=dtype, device=self.place.device) for _ in children]
        at = 0
        for start, stop in runs:
            self.begin()
            for child, out in zip(children, joined, strict=True):
                out[at : at + stop - start] = self.value(child, start, stop, held, dtype)
            at += stop - start
        self.begin()
        base = joined.pop(0) if node.base is not None else None
        return EngineChunk(
            node.signature, joined, base, 0, self.arena, (node.seed, node.op.name, node.op.version)
        )

    def _apply(self, node: Apply, start: int, stop: int, held: Held, dtype: torch.dtype) -> torch.Tensor:
        x = self.chunk(node, start, stop, held, dtype)
        gathered = node.split in (Split.REDUCE, Split.MODEL)
        key = id(node.scope) if node.scope is not None else id(node)
        args = (x, node.params, held.found[key]) if gathered else (x, node.params)
        call = node.op.implementation.apply if gathered else node.op.implementation
        result = self.call(node, call, args)
        if result.shape != x.shape:
            raise wrong_result(node, f"returned shape {tuple(result.shape)} for a range of {tuple(x.shape)}")
        return self.checked(node, x, result.reshape(-1))

    def _rows(self, node: Apply, start: int, stop: int, held: Held, dtype: torch.dtype) -> torch.Tensor:
        """Apply a ROW op to the rows that cover the range, and cut the range out of them."""
        row = max(node.signature.first.row, 1)
        first, last = start // row * row, -(-stop // row) * row
        flat = self.chunk(node, first, last, held, dtype)
        models = [model.view(-1, row) for model in flat.models]
        base = None if flat.base is None else flat.base.view(-1, row)
        key = (node.seed, node.op.name, node.op.version)
        x = EngineChunk(node.signature, models, base, first, self.arena, key)
        result = self.call(node, node.op.implementation, (x, node.params))
        if result.shape != models[0].shape:
            raise wrong_result(
                node, f"returned shape {tuple(result.shape)} for rows {tuple(models[0].shape)}"
            )
        return self.checked(node, flat, result.reshape(-1))[start - first : stop - first]

    def call(
        self, node: Apply | GroupCall, function: Callable[..., torch.Tensor], args: tuple[Any, ...]
    ) -> torch.Tensor:
        """Call an op, turning what it raises into an OpError with step, tensor and shapes."""
        try:
            with torch.no_grad():
                result = function(*args)
        except SurgeryError:
            raise
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            raise op_failed(node, error) from error
        if isinstance(node, Apply) and (
            not isinstance(result, torch.Tensor) or not result.is_floating_point()
        ):
            kind = result.dtype if isinstance(result, torch.Tensor) else type(result).__name__
            raise wrong_result(node, f"returned {kind}, not a float tensor")
        return result

    def checked(self, node: Apply, x: EngineChunk, result: torch.Tensor) -> torch.Tensor:
        """Refuse NaN and Inf where the policy says so; each element is looked at once."""
        if self.policy == "keep":
            return result
        inputs = inputs_of(node)
        values = list(x.models) if x.base is None else [x.base, *x.models]
        if not node.op.propagates:
            for child, value in zip(inputs, values, strict=True):
                if isinstance(child, Source) and not nan_free(value):
                    raise _nonfinite(child, value, x.start)
        if not nan_free(result):
            for child, value in zip(inputs, values, strict=True):
                if isinstance(child, Source) and not nan_free(value):
                    raise _nonfinite(child, value, x.start)
            count, first = first_nonfinite(result)
            raise OpError(
                f"step {node.step}: `{node.op.name}` makes {count} NaN or Inf in {node.signature.name}, "
                f"first at element {x.start + first}, from finite inputs; check its parameters"
            )
        return result

    def encoded(self, value: torch.Tensor, tag: str, name: str) -> torch.Tensor:
        """Return a value's bytes in its stored dtype, on the host, rounded once to the nearest."""
        size = nbytes(value.numel(), tag)
        if self.place.device.type == "cpu":
            out = self.arena.staging(size)
            overflowed = encode(value, tag, out)
        else:
            on_device = self.arena.take(size, torch.uint8)
            overflowed = encode(value, tag, on_device)
            out = self.place.to_host(on_device, self.arena)
        if overflowed and self.policy != "keep":
            raise OpError(
                f"{name}: {overflowed.count} values are too large for {DTYPES[tag].torch}; "
                "write `output.dtype: bfloat16` or `float32`"
            )
        return out


def _nonfinite(source: Source, value: torch.Tensor, start: int) -> CheckpointError:
    count, first = first_nonfinite(value)
    extent = source.checkpoint.extent(source.spec.name)
    return CheckpointError(
        f"{extent.file if extent else source.checkpoint.location}: {source.spec.name} holds NaN or Inf, {count} in "
        f"the range looked at, first at element {start + first}; mend the file or set `on_nonfinite: zero` or `keep`"
    )


def op_failed(node: Apply | GroupCall, error: Exception) -> OpError:
    """Return the error that tells which op failed on which tensor."""
    what = f"{type(error).__name__}: {error}"
    return OpError(
        f"step {node.step}: `{node.op.name}` failed on {_shapes(node)}: {what}; see its parameters"
    )


def wrong_result(node: Apply | GroupCall, what: str) -> OpError:
    """Return the error that an op broke its contract."""
    return OpError(f"step {node.step}: `{node.op.name}` {what} on {_shapes(node)}; mend the plugin")


def _shapes(node: Apply | GroupCall) -> str:
    if isinstance(node, GroupCall):
        return ", ".join(f"{name} {member.spec.shape}" for name, member in list(node.members.items())[:4])
    return f"{node.signature.name} {node.signature.first.shape}"
