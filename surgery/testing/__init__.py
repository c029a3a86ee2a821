"""For plugin authors and our own tests: a reference runner, conformance cases for ops, tiny checkpoints."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.testing.emitting import run_emitting_op
    from surgery.testing.layouts import run_layout, view
    from surgery.testing.opcase import Identity, OpCase, same_bytes
    from surgery.testing.runner import run_group_op, run_model_op, run_op
    from surgery.testing.tiny import save_tiny, tiny_config, tiny_llama, tiny_specs

# Imported on first use: layouts and tiny specs need no torch.
_HOMES = {
    "Identity": "opcase",
    "OpCase": "opcase",
    "run_emitting_op": "emitting",
    "run_group_op": "runner",
    "run_layout": "layouts",
    "run_model_op": "runner",
    "run_op": "runner",
    "same_bytes": "opcase",
    "save_tiny": "tiny",
    "tiny_config": "tiny",
    "tiny_llama": "tiny",
    "tiny_specs": "tiny",
    "view": "layouts",
}

__all__ = [
    "Identity",
    "OpCase",
    "run_emitting_op",
    "run_group_op",
    "run_layout",
    "run_model_op",
    "run_op",
    "same_bytes",
    "save_tiny",
    "tiny_config",
    "tiny_llama",
    "tiny_specs",
    "view",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name in _HOMES:
        return getattr(import_module(f"surgery.testing.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'surgery.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
