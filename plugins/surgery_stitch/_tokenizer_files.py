"""The files of a tokenizer with further tokens, edited as JSON; nothing is saved anew that need not be.

Tokens that a model has in its vocabulary proper are put into the vocabulary of tokenizer.json. No merge makes them,
so that a BPE tokenizer cuts text as before; they can be given by id and are decoded like the others. Tokens that were
added to a tokenizer are added here too, with the settings of the first model that has them; they are found in text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from surgery.checkpoint.tokenizer import TOKENIZER, read_tokenizer, stamp_of
from surgery.errors import PlanError
from surgery.ops import File
from surgery_stitch._chat import SETTINGS, as_bytes, as_json, chosen, put_template
from surgery_stitch._speaker import Speaker
from surgery_stitch._target import Target

ADDED: Final = "added_tokens.json"
_PROCESSORS: Final = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_FLAGS: Final = ("lstrip", "normalized", "rstrip", "single_word", "special")
# Tokens of a recipe that no model has: found in text wherever they stand.
_LITERAL: Final = {
    "lstrip": False,
    "normalized": False,
    "rstrip": False,
    "single_word": False,
    "special": False,
}


def files_of(
    own: Speaker, target: Target, speakers: Mapping[str, Speaker], template: str | None
) -> dict[str, File]:
    """Return the files beside a model in a vocabulary: its own processors, the tokenizer's, and a chat template."""
    files = {name: file for name, file in own.view.files.items() if name in _PROCESSORS}
    files |= {name: file for name, file in target.model.view.files.items() if name not in _PROCESSORS}
    if target.new:
        files |= _with_tokens(files, target, _additions(target, speakers))
    if template is not None:
        views = {name: speaker.view for name, speaker in speakers.items()}
        text = chosen(template, views, views.values(), "chat_template")
        if text is not None:
            put_template(files, text)
    return files


Addition = tuple[str, int, str | None]  # token, id, and its settings as JSON if it is an added token


def _additions(target: Target, speakers: Mapping[str, Speaker]) -> tuple[Addition, ...]:
    """Return the new tokens with the settings of the first model that has them."""
    found = []
    for token in target.new:
        owners = [speaker for speaker in speakers.values() if token in speaker.ids]
        settings: Mapping[str, Any] | None = _LITERAL if not owners else None
        settings = next((owner.added[token] for owner in owners if token in owner.added), settings)
        flags = None if settings is None else json.dumps({flag: settings.get(flag, False) for flag in _FLAGS})
        found.append((token, target.ids[token], flags))
    return tuple(found)


def _with_tokens(files: Mapping[str, File], target: Target, new: tuple[Addition, ...]) -> dict[str, File]:
    made: dict[str, File] = {
        TOKENIZER: _edited(files[TOKENIZER], stamp_of(files[TOKENIZER]), new, target.model.rows)
    }
    literal = {str(i): {"content": token, **json.loads(flags)} for token, i, flags in new if flags}
    if SETTINGS in files:
        settings = as_json(files[SETTINGS], SETTINGS)
        if "added_tokens_decoder" in settings:
            before = settings["added_tokens_decoder"]
            if not isinstance(before, dict) or not all(i.isdecimal() for i in before):
                raise PlanError(f"{SETTINGS}: `added_tokens_decoder` must map ids to tokens; mend the file")
            kept = {i: token for i, token in before.items() if int(i) < target.model.rows}
            settings["added_tokens_decoder"] = kept | literal
            made[SETTINGS] = as_bytes(settings)
    if ADDED in files:
        listed = as_json(files[ADDED], ADDED)
        if not all(isinstance(i, int) for i in listed.values()):
            raise PlanError(f"{ADDED}: must map tokens to ids; mend or remove the file")
        added = {token: i for token, i in listed.items() if i < target.model.rows}
        made[ADDED] = as_bytes(added | {token: i for token, i, flags in new if flags})
    return made


@lru_cache(maxsize=2)
def _edited(file: File, stamp: tuple[int, ...], new: tuple[Addition, ...], rows: int) -> bytes:
    """Return tokenizer.json with further tokens, without added tokens that have no row.

    The tokenizers library numbers added tokens by itself unless they are in the vocabulary proper: all are put there.
    Vocabularies that are lists (Unigram) cannot take them: what is new is added there, which gives the same ids.
    """
    document = read_tokenizer(file)
    model = document["model"]
    added = [token for token in document.get("added_tokens") or [] if token["id"] < rows]
    listed = isinstance(model.get("vocab"), list)
    for token, i, flags in new:
        if flags is not None or listed:
            settings = json.loads(flags) if flags is not None else {**_LITERAL, "normalized": True}
            added.append({"id": i, "content": token, **settings})
    if not listed:
        dropped = {token["content"] for token in document.get("added_tokens") or [] if token["id"] >= rows}
        own = {token: i for token, i in model["vocab"].items() if token not in dropped}
        if any(i >= rows for i in own.values()):
            raise PlanError(
                "tokens of the tokenizer itself have no row in the embeddings; give them one with `stitch.resize_vocab`"
            )
        model["vocab"] = own | {t["content"]: t["id"] for t in added} | {token: i for token, i, _ in new}
    document["added_tokens"] = sorted(added, key=lambda token: token["id"])
    return as_bytes(document)
