"""Do models that are merged speak the same tokens? Compared from their tokenizer.json files, not from shapes."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from surgery.errors import CheckpointError
from surgery.plan.virtual import VirtualModel


@lru_cache(maxsize=16)
def vocabulary(path: Path) -> dict[str, int]:
    """Return token -> id of a tokenizer.json, added tokens included."""
    try:
        document = json.loads(path.read_bytes())
        listed = document.get("model", {}).get("vocab", {})
        tokens = dict(listed) if isinstance(listed, dict) else {entry[0]: i for i, entry in enumerate(listed)}
        tokens |= {token["content"]: token["id"] for token in document.get("added_tokens", [])}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path}: not a tokenizer: {error}; mend or remove the file") from error
    return tokens


def difference(first: VirtualModel, second: VirtualModel) -> str | None:
    """Return how two models' tokens differ; None if they agree or one comes without a tokenizer."""
    paths = [model.donor.sidecars.get("tokenizer.json") for model in (first, second)]
    if paths[0] is None or paths[1] is None or paths[0] == paths[1]:
        return None
    a, b = vocabulary(paths[0]), vocabulary(paths[1])
    differing = sorted(token for token in a.keys() | b.keys() if a.get(token) != b.get(token))
    if not differing:
        return None
    token = differing[0]
    return (
        f"`{first.name}` and `{second.name}` have different tokenizers: {len(differing)} tokens differ, "
        f"first {token!r} with ids {a.get(token)} and {b.get(token)}"
    )
