"""The op contract: a pure function on tensors plus a declaration of what it may see.

The declaration is what lets one engine schedule everything:

    split     the function sees                          the engine may
    ELEMENT   the same range of every input, flat        cut anywhere, fuse chains
    ROW       whole rows [rows, row]                     cut by rows
    REDUCE    blocks to gather from, then as ELEMENT     stream each pass
    TENSOR    one whole tensor in its shape              one at a time, on the device
    GROUP     the tensors that a key collects            one group at a time
    MODEL     blocks of all tensors, then as ELEMENT     first pass gather, second pass apply
    LAYOUT    names and specs only, at plan time         move no bytes

An op that `emits` makes several stored tensors of one (codes and scales, two factors): it sees whole rows, or the
whole tensor, and returns them by name. An op that `needs` statistics of activations finds them in `x.statistics`.

A function declared with `@op` is an ELEMENT, ROW or TENSOR op; a class derived from `Reduce` or `Group` is one
of the others; `@layout_op` declares a layout op. Tensors arrive in float32 (float64 if an input is), and what is
returned is rounded once, when it is written. Ops must not change their inputs; `x.out` is theirs to write to.
This module imports no torch: planning needs only declarations.
"""

from __future__ import annotations

# What layout ops say, and what stands beside models, is part of the contract: named again so that it is found here too.
from surgery.companion import Beside, Companion
from surgery.layout import Call, File, Layout, ModelView, Piece, Reading, Stack, Take
from surgery.ops.chunk import Chunk
from surgery.ops.declare import layout_op, op
from surgery.ops.declared import Declared, ops_in
from surgery.ops.group import Group
from surgery.ops.kinds import BaseUse, Need, Rest, Scan, Shapes, Space, Split, Vectors
from surgery.ops.made import Description, Made, Part, Relation
from surgery.ops.record import Op
from surgery.ops.reduce import BLOCK, SAMPLE_RUN, SAMPLE_RUNS, Reduce
from surgery.ops.signature import BASE, NoParams, Params, Signature

__all__ = [
    "BASE",
    "BLOCK",
    "SAMPLE_RUN",
    "SAMPLE_RUNS",
    "BaseUse",
    "Beside",
    "Call",
    "Chunk",
    "Companion",
    "Declared",
    "Description",
    "File",
    "Group",
    "Layout",
    "Made",
    "ModelView",
    "Need",
    "NoParams",
    "Op",
    "Params",
    "Part",
    "Piece",
    "Reading",
    "Reduce",
    "Relation",
    "Rest",
    "Scan",
    "Shapes",
    "Signature",
    "Space",
    "Split",
    "Stack",
    "Take",
    "Vectors",
    "layout_op",
    "op",
    "ops_in",
]
