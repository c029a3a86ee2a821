"""What a layout op says: a new model made of tensors of others, of their rows, and of what ops make of those.

    Take     a tensor of a model, or some of its rows         Layout   output name -> one of these, config, files
    Stack    rows of several of these, in any order
    Call     an op on several of these; it may look at what a model makes of prompts (`Reading`)

All of it is said while planning, from names and specs; nothing is read and nothing moves. Rows that a `Stack` takes
from files are copied as bytes where the dtypes allow it, and streamed either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.tensors import TensorInfo

if TYPE_CHECKING:
    from surgery.ops import Op, Params

# What stands beside the weights: a file that is copied, or the bytes of one that is made.
File = Path | bytes


@dataclass(frozen=True, slots=True)
class ModelView:
    """What a layout op sees of a model: names, specs, roles, config, the files beside it; no values.

    `tied` maps a name that the model does not store to the tensor whose values it shares; either may be taken.
    """

    name: str
    tensors: Mapping[str, TensorInfo]
    config: Mapping[str, Any]
    layers: int
    rename_layer: Callable[[str, int], str]  # (tensor name, new layer index) -> tensor name
    files: Mapping[str, File] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Take:
    """A tensor of a model, or some of its rows: first to last, half open."""

    model: str
    name: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """The rows of several parts under one another; or, with an `index`, any of these rows in any order.

    Parts are floats whose shapes differ in the first dimension only. Row i of the result is row `index[i]` of all
    parts one under another; a row may be taken more than once.
    """

    parts: Sequence[Piece]
    index: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """A model that reads prompts, and the layer before which it is looked at: 0 for the embeddings.

    Each prompt is token ids, and is read by itself. The model is a causal language model whose blocks run one after
    another; it runs in float32, a block at a time, once for all calls that have the same prompts.
    """

    model: str
    layer: int
    prompts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """What an op makes of some parts, as if they were one tensor of several models.

    The op needs no registration. It is an ELEMENT, ROW or REDUCE op on parts of one shape, or a TENSOR op on any.
    Without `params` they are its defaults. An op that `needs` hidden states (`Need.LAST`, `Need.MEAN`) finds those
    of `reading` in `x.statistics`, a row for each prompt.
    """

    op: Op
    parts: Sequence[Piece]
    params: Params | None = None
    reading: Reading | None = None


Piece = Take | Stack | Call


@dataclass(frozen=True, slots=True)
class Layout:
    """A new model made of parts of others: output name -> what to take, and the rewritten config.json.

    `donor` is the model whose tokenizer and naming describe the result; by default the step's first, which is the
    base if the step names one. `files` are written beside the weights in the place of the donor's.
    """

    tensors: Mapping[str, Piece]
    config: Mapping[str, Any]
    donor: str | None = None
    files: Mapping[str, File] | None = None
