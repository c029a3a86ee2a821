"""Small models with tokenizers of their own, for tests of ops on vocabularies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from surgery.testing import save_tiny

EMBED = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def tokenizer(vocabulary: Mapping[str, int], added: Mapping[str, int] | None = None, **model: Any) -> bytes:
    """Return a tokenizer.json that cuts text at spaces, with further added tokens, which are special."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for token, i in (added or {}).items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": dict(vocabulary), "unk_token": "a", **model},
    }
    return json.dumps(document).encode()


def save(
    folder: Path, vocabulary: Mapping[str, int], added: Mapping[str, int] | None = None, **settings: Any
) -> Path:
    """Write a tiny model of one layer with a tokenizer; as many rows as tokens unless `vocab` says otherwise."""
    settings = {"vocab": len(vocabulary) + len(added or {}), "layers": 1, **settings}
    save_tiny(folder, **settings)
    (folder / "tokenizer.json").write_bytes(tokenizer(vocabulary, added))
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return a model's tensors."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def config(folder: Path) -> dict[str, Any]:
    """Return a model's config.json."""
    return dict(json.loads((folder / "config.json").read_text()))
