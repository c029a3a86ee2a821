"""The vocabulary that models are given: which token gets which id, and how many rows there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from surgery.errors import PlanError, did_you_mean
from surgery_stitch._speaker import Speaker


@dataclass(frozen=True, slots=True)
class Target:
    """Token -> id; `model` is the one whose tokenizer is used, `new` the tokens that it lacks; `rows` of a matrix.

    `padded` says whether rows without a token may stay as they are.
    """

    model: Speaker
    ids: Mapping[str, int]
    new: Sequence[str]
    rows: int
    padded: bool


def target(
    speakers: Mapping[str, Speaker], source: str, further: Iterable[str], multiple: int | None
) -> Target:
    """Return the vocabulary `base`, `union` or that of a model, with further tokens, padded to a multiple.

    Ids of the model whose tokenizer is used stay; new tokens follow, the other models' in the order of models and ids.
    """
    base, *others = speakers.values()
    model = base if source in ("base", "union") and source not in speakers else speakers.get(source)
    if model is None:
        known = ["base", "union", *speakers]
        raise PlanError(f"source: no model of the step is called `{source}`{did_you_mean(source, known)}")
    ids = dict(model.ids)
    new: dict[str, None] = {}
    for other in others if source == "union" else ():
        lacking = [token for token in other.ids if token not in ids and token not in new]
        new.update(dict.fromkeys(sorted(lacking, key=other.ids.__getitem__)))
    new.update(dict.fromkeys(token for token in further if token not in ids))
    ids.update({token: i for i, token in enumerate(new, start=model.real)})
    used = model.real + len(new)
    if multiple is None:
        return Target(model, ids, list(new), max(model.rows, used), padded=True)
    return Target(model, ids, list(new), -(-used // multiple) * multiple, padded=False)
