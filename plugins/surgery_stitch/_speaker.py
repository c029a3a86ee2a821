"""What a model's vocabulary is: its tokens, and the tensors that have a row for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from surgery.checkpoint.tokenizer import TOKENIZER, Vocabulary, vocabulary
from surgery.errors import PlanError
from surgery.ops import ModelView
from surgery.tensors import TensorInfo
from surgery_stitch._settings import text_part

# What a tensor is by its role and its dimensions: a head may have a bias.
_SLOTS: Final = {("embed", 2): "embeddings", ("head", 2): "head", ("head", 1): "bias of the head"}


@dataclass(frozen=True)
class Speaker:
    """A model and the tensors that have a row for each token: slot -> name. `rows` is how many rows they have."""

    view: ModelView
    names: Mapping[str, str]
    rows: int

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.view.name

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Return the tokens that have a row: token -> row. Others, as some tokenizers have them, are left out."""
        ids = self._vocabulary.ids
        if max(ids.values(), default=-1) < self.rows:
            return ids
        return {token: i for token, i in ids.items() if i < self.rows}

    @cached_property
    def real(self) -> int:
        """Return how many rows there are up to that of the last token; behind it is padding."""
        return 1 + max(self.ids.values(), default=-1)

    @property
    def added(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the settings of tokens that were added to the tokenizer's own, by token."""
        return self._vocabulary.added

    @property
    def byte_level(self) -> bool:
        """Return whether tokens are written in GPT-2's letters for bytes."""
        return self._vocabulary.byte_level

    @property
    def _vocabulary(self) -> Vocabulary:
        if TOKENIZER not in self.view.files:
            raise PlanError(
                f"`{self.name}` has no {TOKENIZER}, which says which row is which token; "
                "save its tokenizer with transformers beside it"
            )
        return vocabulary(self.view.files[TOKENIZER])

    def tensor(self, slot: str) -> str:
        """Return the tensor that has the rows for a slot; the embeddings for a head that is tied to them."""
        found = self.names.get(slot)
        if found is None and slot == "head" and self.names["embeddings"] in self.view.tied.values():
            found = self.names["embeddings"]
        if found is None:
            raise PlanError(f"`{self.name}` has no {slot} to take rows from; leave it out, or set `tokens`")
        return found

    def info(self, slot: str) -> TensorInfo:
        """Return what the tensor for a slot is."""
        return self.view.tensors[self.tensor(slot)]


def speaker(view: ModelView) -> Speaker:
    """Return a model's vocabulary tensors; PlanError where they cannot be told."""
    slots: dict[str, list[str]] = {}
    for name, tensor in view.tensors.items():
        slot = _SLOTS.get((tensor.role.kind, len(tensor.spec.shape)))
        if slot is not None:
            slots.setdefault(slot, []).append(name)
    if len(slots.get("embeddings", ())) != 1:
        count = len(slots.get("embeddings", ())) or "no"
        raise PlanError(
            f"`{view.name}` has {count} embedding matrices; one is needed, with a row for each token"
        )
    rows = view.tensors[slots["embeddings"][0]].spec.shape[0]
    found = ((slot, slots[slot][0]) for slot in _SLOTS.values() if slot in slots)
    names = {slot: name for slot, name in found if _rows(view, name) == rows}
    _refuse_others(view, slots, rows)
    return Speaker(view, names, rows)


def _rows(view: ModelView, name: str) -> int:
    return view.tensors[name].spec.shape[0]


def _refuse_others(view: ModelView, slots: Mapping[str, list[str]], rows: int) -> None:
    """Refuse tensors that belong to the vocabulary, but not in a way that is known."""
    classes = view.config.get("architectures") or ()
    for name in slots.get("head", ()):
        if _rows(view, name) != rows and any(str(each).endswith("ForCausalLM") for each in classes):
            raise PlanError(
                f"`{view.name}` has {rows} rows of embeddings and {_rows(view, name)} of {name}; make them equal first"
            )
    for name, tensor in view.tensors.items():
        outside = tensor.role.layer is None and tensor.role.kind == "other" and "embed" in name
        if outside and tensor.spec.shape[:1] == (rows,):
            raise PlanError(
                f"{name} of `{view.name}` has {rows} rows, as many as the embeddings, and a role that is not known; "
                "models with further tensors for each token cannot be given another vocabulary"
            )


def with_vocabulary(config: Mapping[str, Any], rows: int, ids: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json with a number of rows, and with the special tokens' ids that are given."""
    made: dict[str, Any] = deepcopy(dict(config))
    parts: Any = (made, text_part(made))
    for part in parts:
        part.update({key: value for key, value in ids.items() if key in part})
        if "vocab_size" in part:
            part["vocab_size"] = rows
    return made


SPECIAL: Final = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def special_ids(own: Speaker, ids: Mapping[str, int], target: Speaker) -> dict[str, Any]:
    """Return the ids in config.json of special tokens: where the model's own went, or the target's if they are gone."""
    tokens = {i: token for token, i in own.ids.items()}
    wanted, theirs = text_part(own.view.config), text_part(target.view.config)
    found: dict[str, Any] = {}
    for key in SPECIAL:
        value = wanted.get(key)
        listed = value if isinstance(value, list) else [value]
        moved = [ids.get(tokens.get(-1 if i is None else i, "")) for i in listed]
        if value is not None:
            found[key] = (
                theirs.get(key) if None in moved else (moved if isinstance(value, list) else moved[0])
            )
    return found
