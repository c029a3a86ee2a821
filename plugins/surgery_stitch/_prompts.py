"""Prompts as token ids: what stands in tokenizer.json is run by the `tokenizers` library, nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from surgery.checkpoint.tokenizer import TOKENIZER
from surgery.errors import PlanError, ResourceError
from surgery.ops import File, ModelView
from surgery_stitch._chat import SETTINGS
from surgery_stitch._speaker import speaker


def token_ids(view: ModelView, prompts: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return the token ids of each list of prompts, one prompt behind the other.

    Each prompt is led by the model's begin token, if it has one, and by no other special token. Raises PlanError
    for a model without tokenizer.json, or a token that has no row in the embeddings.
    """
    own = speaker(view)
    if TOKENIZER not in view.files:
        raise PlanError(
            f"`{view.name}` has no {TOKENIZER}, which prompts are read by; save its tokenizer with transformers "
            "beside it, or take another `gate`"
        )
    tokenizer = _tokenizer(view)
    begin = _begin(view, tokenizer)
    found = []
    for texts in prompts:
        ids = [i for text in texts for i in [*begin, *tokenizer.encode(text, add_special_tokens=False).ids]]
        beyond = next((i for i in ids if i >= own.rows), None)
        if beyond is not None:
            raise PlanError(
                f"`{view.name}` has {own.rows} rows of embeddings, got token {beyond} from a prompt; "
                "make them fit with `stitch.resize_vocab`"
            )
        found.append(ids)
    return found


def _tokenizer(view: ModelView) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ResourceError(
            "gate: cheap_embed needs `tokenizers`, which is not installed; pip install 'model-surgery[hf]'"
        ) from error
    try:
        return Tokenizer.from_buffer(_bytes(view.files[TOKENIZER]))
    except Exception as error:  # the library raises plain exceptions, and panics
        raise PlanError(
            f"{TOKENIZER} of `{view.name}` cannot be read: {error}; mend or replace it"
        ) from error


def _begin(view: ModelView, tokenizer: Any) -> list[int]:
    """Return the begin token's id, as tokenizer_config.json names it."""
    if SETTINGS not in view.files:
        return []
    try:
        token = json.loads(_bytes(view.files[SETTINGS])).get("bos_token")
    except (ValueError, AttributeError, RecursionError) as error:
        raise PlanError(f"{SETTINGS} of `{view.name}` cannot be read: {error}; mend or remove it") from error
    text = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(text) if isinstance(text, str) else None
    return [] if found is None else [found]


def _bytes(file: File) -> bytes:
    return file if isinstance(file, bytes) else file.read_bytes()
