"""Ops that make several stored tensors of one: their calls on rows or whole tensors, held to what they declared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from surgery.execute.calls import invoke
from surgery.execute.contract import wrong_result
from surgery.execute.evaluate import Evaluator, compute_dtype
from surgery.execute.finite import check_inputs
from surgery.execute.held import Held
from surgery.execute.needs import Needs
from surgery.math.convert import torch_dtype
from surgery.ops import Part, Split
from surgery.plan.nodes import Apply
from surgery.tensors import TensorSpec

Emission = Mapping[str, torch.Tensor]


def emissions(work: Evaluator, call: Apply, held: Held, chunk: int) -> Iterator[Emission]:
    """Yield what a call makes, from the first rows to the last: tensors by name, each in its order of rows.

    Tensors that do not depend on rows come with the first. Raises OpError when the op returns something else than it
    declared. What is yielded is overwritten by the next.
    """
    if call.split is Split.TENSOR:
        yield _whole(work, call, held, chunk)
        return
    rows, row = _rows(call)
    step = max(chunk // max(row, 1) // call.row_step, 1) * call.row_step
    for first in range(0, max(rows, 1), step):
        work.begin()
        last = min(first + step, rows)
        x = work.rows(call, first, last, held, compute_dtype(call))
        result = invoke(call, *_called(call, x, held))
        check_inputs(work, call, x)
        wanted = {part.spec.name: _shape(part, first, last) for part in call.parts if part.rows or first == 0}
        _require(call, result, wanted)
        yield result
        work.place.finish()


def _whole(work: Evaluator, call: Apply, held: Held, chunk: int) -> Emission:
    """Return what a call on a whole tensor makes."""
    x = Needs([call], held, chunk).whole_chunk(work, call)
    check_inputs(work, call, x)  # first: decompositions fail on NaN with less to say
    result = invoke(call, *_called(call, x, held))
    _require(call, result, {part.spec.name: part.spec.shape for part in call.parts})
    work.place.finish()
    return result  # type: ignore[no-any-return]


def _called(call: Apply, x: Any, held: Held) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the function to call and its arguments."""
    implementation = call.op.implementation
    if call.split is Split.REDUCE:
        return implementation.apply, (x, call.params, held.found[id(call)])
    return implementation, (x, call.params)


def _rows(call: Apply) -> tuple[int, int]:
    """Return how many rows the input has, and the elements of one."""
    spec = call.signature.first
    return (spec.shape[0] if spec.shape else 1), spec.row


def _shape(part: Part, first: int, last: int) -> tuple[int, ...]:
    """Return the shape of what is made of rows first to last of the input."""
    if part.rows == 0:
        return part.spec.shape
    return (-(-last // part.rows) - first // part.rows, *part.spec.shape[1:])


def _require(call: Apply, result: Any, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a result whose names, shapes or dtypes are not what was declared."""
    if not isinstance(result, Mapping) or set(result) != set(wanted):
        names = sorted(map(str, result)) if isinstance(result, Mapping) else type(result).__name__
        raise wrong_result(call, f"returned {names}, not tensors named {sorted(wanted)},")
    dtypes = {part.spec.name: part.spec.dtype for part in call.parts}
    for name, shape in wanted.items():
        value = result[name]
        if not isinstance(value, torch.Tensor) or tuple(value.shape) != shape:
            got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise wrong_result(call, f"returned {name} as {got}, it declared {shape},")
        stored = torch_dtype(dtypes[name])
        computed = (torch.float32, torch.float64) if stored.is_floating_point else ()
        if value.dtype not in (stored, *computed):
            raise wrong_result(call, f"returned {name} as {value.dtype}, it declared {stored},")


def stored_bytes(value: torch.Tensor, spec: TensorSpec, work: Evaluator) -> memoryview:
    """Return the bytes of an emitted tensor as they are stored; floats of the compute dtype are rounded once."""
    stored = torch_dtype(spec.dtype)
    if value.dtype is not stored:
        return work.encoded_new(value.reshape(-1), spec)
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
