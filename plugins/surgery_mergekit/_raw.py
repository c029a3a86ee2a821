"""Documents for mergekit-pytorch: models are single files, whose tensors are merged by name and belong to no layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_FILES: Final = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def is_raw(data: Mapping[str, Any]) -> bool:
    """Return whether all models of a document are files; such a document has no slices."""
    models = data.get("models")
    if not isinstance(models, list):
        return False
    named = [entry.get("model") if isinstance(entry, dict) else None for entry in models]
    named += [data["base_model"]] if data.get("base_model") is not None else []
    return bool(named) and all(isinstance(name, str) and name.endswith(_FILES) for name in named)
