"""The words of a declaration: how work is cut, what numbers mean, what is gathered and needed."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

Vectors = Literal["same", "skip", "row"]
Rest = Literal["copy", "drop"]
Shapes = Literal["same", "any"]
BaseUse = Literal["required", "optional", "none"]


class Split(StrEnum):
    """How an op's work may be cut; see the table above."""

    ELEMENT = "element"
    ROW = "row"
    REDUCE = "reduce"
    TENSOR = "tensor"
    GROUP = "group"
    MODEL = "model"
    LAYOUT = "layout"


class Space(StrEnum):
    """What a tensor's numbers mean, so that a delta is never taken for weights."""

    WEIGHT = "weight"
    DELTA = "delta"
    FACTORS = "factors"
    PACKED = "packed"
    MASK = "mask"
    STATISTIC = "statistic"


class Scan(StrEnum):
    """What a gather pass reads: every block, or a fixed sample of about 65,536 elements."""

    ALL = "all"
    SAMPLE = "sample"


class Need(StrEnum):
    """Statistics of the inputs that a Linear sees on calibration text, summed over all tokens in float64.

    The last two are for ops that layouts call with a `Reading`: hidden states before a layer, [prompts, hidden].
    """

    SQUARES = "squares"  # the sum of squares of every input feature, [in]
    TOKENS = "tokens"  # how many tokens it saw, [1]
    GRAM = "gram"  # XᵀX of the inputs X [tokens, in]: [in, in], symmetric; large, so that few ops should ask for it
    LAST = "last"  # of the last token of each prompt
    MEAN = "mean"  # the mean over the tokens of each prompt
