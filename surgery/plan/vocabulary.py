"""Do models that are merged speak the same tokens? Compared from their tokenizer.json files, not from shapes."""

from __future__ import annotations

from surgery.checkpoint.tokenizer import TOKENIZER, vocabulary
from surgery.plan.virtual import VirtualModel


def difference(first: VirtualModel, second: VirtualModel) -> str | None:
    """Return how two models' tokens differ; None if they agree or one comes without a tokenizer."""
    files = [model.sidecars.get(TOKENIZER) for model in (first, second)]
    if files[0] is None or files[1] is None or files[0] == files[1]:
        return None
    a, b = vocabulary(files[0]).ids, vocabulary(files[1]).ids
    differing = sorted(token for token in a.keys() | b.keys() if a.get(token) != b.get(token))
    if not differing:
        return None
    token = differing[0]
    return (
        f"`{first.name}` and `{second.name}` have different tokenizers: {len(differing)} tokens differ, "
        f"first {token!r} with ids {a.get(token)} and {b.get(token)}"
    )
