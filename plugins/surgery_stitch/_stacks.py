"""One stack of a model of several, as if it were the whole model: an encoder's layers, or its decoder's.

`within` hides what is not of the stack, so that layers are picked and put together as in a model of one stack;
`restored` puts the new number of layers where config.json has that stack's. All other tensors, the other stacks' and
the head's among them, are those of the model that gives the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final

from surgery.errors import PlanError
from surgery.ops import Layout, ModelView
from surgery.tensors import Role, TensorInfo
from surgery_stitch._config import COUNTS

COUNT: Final = "num_hidden_layers"

# A word of a stack's path -> where config.json may say how many layers it has. T5's `num_layers` are the encoder's.
_PLACES: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "encoder": (("encoder_layers",), ("num_encoder_layers",), ("num_layers",)),
    "decoder": (("decoder_layers",), ("num_decoder_layers",)),
    "text_model": (("text_config", COUNT),),
    "vision_model": (("vision_config", COUNT),),
}
# What a config says of the whole model: of no meaning for one stack.
_WHOLE: Final = frozenset(
    {"is_encoder_decoder", "architectures", "tie_word_embeddings", *COUNTS}
    | {place[0] for places in _PLACES.values() for place in places}
)
# T5 keeps what all layers of a stack share in its first one: it belongs to that place, whichever layer comes there.
_SHARED: Final = "relative_attention_bias"


def within(models: Mapping[str, ModelView], word: str | None) -> Mapping[str, ModelView]:
    """Return models of which only one stack has layers: the one with `word` in its path; None for all that there is.

    Raises PlanError for a model without such a stack, or whose config.json does not say how many layers it has.
    """
    return models if word is None else {name: _within(view, word) for name, view in models.items()}


def restored(layout: Layout, models: Mapping[str, ModelView], word: str | None) -> Layout:
    """Return a layout of what `within` returned, with the config.json of the whole model."""
    if word is None:
        return layout
    donor = models[layout.donor or next(iter(models))]
    config: dict[str, Any] = deepcopy(dict(donor.config))
    place, count = _place(donor, word), layout.config[COUNT]
    part: Any = config
    for key in place[:-1]:
        part = part[key]
    before, part[place[-1]] = part[place[-1]], count
    if word == "encoder" and config.get(COUNT) == before and len(place) == 1:  # BART repeats it
        config[COUNT] = count
    return replace(layout, config=config)


def _within(view: ModelView, word: str) -> ModelView:
    stack = _stack(view, word)
    place = _place(view, word)
    part: Any = view.config
    for key in place[:-1]:
        part = part[key]
    count = part[place[-1]]
    config = {key: value for key, value in part.items() if key not in _WHOLE} | {COUNT: count}
    above = ".".join(stack.split(".")[: stack.split(".").index(word) + 1])
    tensors = {name: _seen(tensor, name, stack, above) for name, tensor in view.tensors.items()}
    layers = 1 + max(tensor.role.layer for tensor in tensors.values() if tensor.role.layer is not None)
    return replace(view, tensors=tensors, config=config, layers=layers, tied={})


def _seen(tensor: TensorInfo, name: str, stack: str, above: str) -> TensorInfo:
    """Return a tensor as one of a model that has this stack alone."""
    role = tensor.role
    if role.layer is not None and role.stack == stack and _SHARED not in name:
        return tensor
    ends = role.layer is None and role.kind == "norm.final" and name.startswith(f"{above}.")
    return replace(tensor, role=Role("norm.final" if ends else "other"))


def stacks_of(view: ModelView) -> list[str]:
    """Return the paths of a model's stacks."""
    return sorted({info.role.stack for info in view.tensors.values() if info.role.layer is not None})


def _stack(view: ModelView, word: str) -> str:
    stacks = stacks_of(view)
    found = [stack for stack in stacks if word in stack.split(".")]
    if len(found) != 1:
        there = " and ".join(f"`{stack}`" for stack in stacks) or "none"
        what = f"{len(found) or 'no'} stack{'s' if len(found) > 1 else ''} with `{word}` in the path"
        raise PlanError(f"`{view.name}` has {what}, its stacks are {there}; write one word of one path")
    return found[0]


def _place(view: ModelView, word: str) -> tuple[str, ...]:
    """Return where config.json says how many layers a stack has."""
    for place in _PLACES.get(word, ()):
        part: Any = view.config
        for key in place:
            part = part.get(key) if isinstance(part, Mapping) else None
        if isinstance(part, int):
            return place
    known = " or ".join(".".join(place) for place in _PLACES.get(word, ())) or "any place that is known"
    raise PlanError(
        f"config.json of `{view.name}` does not say how many layers `{word}` has, in {known}; add it"
    )
