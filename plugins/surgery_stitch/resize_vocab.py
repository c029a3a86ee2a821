"""stitch.resize_vocab: more rows for tokens that are to come, or fewer without the padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from surgery.checkpoint.tokenizer import TOKENIZER
from surgery.errors import PlanError
from surgery.ops import Call, Layout, ModelView, Params, Piece, Stack, Take, layout_op
from surgery_stitch._common import only
from surgery_stitch._noise import Noise, noise_of_rows
from surgery_stitch._rows import mean_of_rows, zero
from surgery_stitch._speaker import Speaker, speaker, with_vocabulary

# What one pass over the rows may keep of the rows that it draws.
_STATE = 8 << 20


class ResizeVocab(Params):
    """Parameters of stitch.resize_vocab."""

    size: int | Literal["tokens"] | None = Field(default=None)
    """How many rows: a number, or `tokens` for as many as the tokenizer has; by default as many as there are."""

    pad_to: int | None = Field(default=None, ge=1)
    """Round the number of rows up to a multiple of this."""

    fill: Literal["mean", "zero", "noise"] = "mean"
    """What new rows are: the mean of the tokens' rows, zero, or draws around the mean with their covariance."""

    scale: float = Field(default=1e-5, ge=0)
    """With `fill: noise`: the share of the covariance."""

    seed: int = Field(default=0, ge=0)
    """With `fill: noise`: what the draws depend on."""


@layout_op(
    "stitch.resize_vocab",
    params=ResizeVocab,
    models=1,
    cite="Hewitt 2021, Initializing New Word Embeddings for Pretrained Language Models",
)
def resize_vocab(models: Mapping[str, ModelView], p: ResizeVocab) -> Layout:
    """Change the number of rows [V, D] of embeddings and head; rows that stay keep their bytes.

    New rows are the mean over the rows of all tokens, padding left out: logits of new tokens are then moderate.
    Tokens are those of tokenizer.json; without it, all rows are. config.json gets the number of rows.
    Raises PlanError when rows of tokens would be lost.
    """
    own = speaker(only(models))
    real = own.real if TOKENIZER in own.view.files else own.rows
    rows = _rows(own, real, p)
    tensors: dict[str, Piece] = {name: Take(own.name, name) for name in own.view.tensors}
    tensors |= {name: _resized(own, slot, real, rows, p) for slot, name in own.names.items()}
    return Layout(tensors, with_vocabulary(own.view.config, rows, {}))


def _rows(own: Speaker, real: int, p: ResizeVocab) -> int:
    """Return how many rows there will be."""
    wanted = own.rows if p.size is None else real if p.size == "tokens" else p.size
    rows = -(-wanted // (p.pad_to or 1)) * (p.pad_to or 1)
    if rows < real or rows < 1:
        raise PlanError(f"`{own.name}` has {real} tokens, got {rows} rows; give at least one for each token")
    if p.fill == "noise" and rows - own.rows > real:
        what = f"{rows - own.rows} new rows are drawn around {real}"
        raise PlanError(f"{what}; draw no more than there are, or set `fill: mean`")
    return rows


def _resized(own: Speaker, slot: str, real: int, rows: int, p: ResizeVocab) -> Piece:
    """Return a tensor with another number of rows."""
    whole = Take(own.name, own.names[slot])
    if rows <= own.rows:
        return Stack([whole], range(rows))
    real_rows = Take(own.name, own.names[slot], (0, real))
    new = rows - own.rows
    if p.fill != "noise":
        row = Take(own.name, own.names[slot], (0, 1))
        filled = Call(mean_of_rows, [real_rows]) if p.fill == "mean" else Call(zero, [row])
        return Stack([whole, filled], [*range(own.rows), *[own.rows] * new])
    at_once = max(_STATE // (8 * own.info(slot).spec.row) - 1, 1)
    draws = [
        Stack(
            [Call(noise_of_rows, [real_rows], Noise(count=count, first=first, scale=p.scale, seed=p.seed))],
            range(count),
        )
        for first in range(0, new, at_once)
        for count in [min(at_once, new - first)]
    ]
    return Stack([whole, *draws])
