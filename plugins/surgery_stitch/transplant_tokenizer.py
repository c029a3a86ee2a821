"""stitch.transplant_tokenizer: a model with the tokenizer of another, whatever the widths of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from surgery.errors import PlanError
from surgery.ops import Call, Layout, ModelView, Params, Piece, Stack, Take, layout_op
from surgery_stitch._match import matches
from surgery_stitch._rows import mean_of_rows
from surgery_stitch._speaker import Speaker, speaker, special_ids, with_vocabulary
from surgery_stitch._target import target
from surgery_stitch._tokenizer_files import files_of
from surgery_stitch._transplant import Combination, rows_of


class TransplantTokenizer(Params):
    """Parameters of stitch.transplant_tokenizer."""

    method: Literal["omp", "common_interpolation"] = "omp"
    """How rows of tokens that the model lacks are made: orthogonal matching pursuit, or the nearest common tokens."""

    k: int = Field(default=64, ge=1)
    """How many common tokens a row is made of."""

    metric: Literal["euclidean", "cosine"] = "euclidean"
    """With `common_interpolation`: what nearest means."""

    weights: Literal["distance", "barycentric", "least_squares"] = "distance"
    """With `common_interpolation`: 1/distance, or the best weights, adding up to one or any."""

    pad_to_multiple_of: int | None = Field(default=None, ge=1)
    """Round the rows up to a multiple; by default as many as the other model has."""


@layout_op(
    "stitch.transplant_tokenizer",
    params=TransplantTokenizer,
    models=2,
    cite="Goddard, Fernandes Neto 2025, Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit, "
    "arXiv:2506.06607",
)
def transplant_tokenizer(models: Mapping[str, ModelView], p: TransplantTokenizer) -> Layout:
    """Give the first model the tokenizer of the second; embeddings and head get rows for tokens that it lacks.

    Tokens that both have keep the first model's rows, byte by byte; special tokens are matched by their role, others by
    the bytes that they stand for. Of the second model's row of any other token, the `k` common tokens are found that
    express it; the same combination of the first model's rows is the new row. The widths of both may differ.
    Raises PlanError when fewer than `k` tokens are common.
    """
    host, donor = (speaker(view) for view in models.values())
    goal = target({host.name: host, donor.name: donor}, donor.name, (), p.pad_to_multiple_of)
    same = matches(host, donor)
    if len(same) < p.k:
        raise PlanError(
            f"`{host.name}` and `{donor.name}` have {len(same)} tokens in common; set `k` to that or less"
        )
    tensors: dict[str, Piece] = {name: Take(host.name, name) for name in host.view.tensors}
    tensors |= {name: _piece(slot, host, donor, goal.rows, same, p) for slot, name in host.names.items()}
    config = with_vocabulary(host.view.config, goal.rows, special_ids(host, {}, donor))
    return Layout(tensors, config, donor=host.name, files=files_of(host, goal, {}, None))


def _piece(
    slot: str, host: Speaker, donor: Speaker, rows: int, same: Mapping[int, int], p: TransplantTokenizer
) -> Piece:
    """Return a tensor with a row for each of the donor's tokens; padding is the mean of all others."""
    tokens = sorted(donor.ids.values())
    missing = [row for row in tokens if row not in same]
    own, theirs = Take(host.name, host.tensor(slot)), Take(donor.name, donor.tensor(slot))
    new = {row: host.rows + i for i, row in enumerate(missing)}
    places = [same.get(row, new.get(row)) for row in range(rows)]
    if slot not in (
        "embeddings",
        "head",
    ):  # a bias has no direction that could be expressed: the mean of the known
        return _padded([own], [same.get(row) for row in range(rows)], host.rows)
    how = Combination(method=p.method, k=p.k, metric=p.metric, weights=p.weights)
    made = Call(rows_of, [Stack([theirs], sorted(same)), Stack([theirs], missing), _of(own, same)], how)
    parts: Sequence[Piece] = [own, made] if missing else [own]
    return _padded(parts, places, host.rows + len(missing))


def _padded(parts: Sequence[Piece], places: Sequence[int | None], count: int) -> Piece:
    """Return rows of parts that have `count` rows in all; None is the mean of all others."""
    real = Stack(parts, [place for place in places if place is not None])
    if None not in places:
        return real
    return Stack(
        [*parts, Call(mean_of_rows, [real])], [count if place is None else place for place in places]
    )


def _of(own: Take, same: Mapping[int, int]) -> Stack:
    """Return the model's rows of the common tokens, in the order of the donor's."""
    return Stack([own], [same[row] for row in sorted(same)])
