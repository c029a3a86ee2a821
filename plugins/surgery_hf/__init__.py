"""The naming schemes of Hugging Face models: which tensor is a query, an expert, a router, the head."""

from __future__ import annotations

from surgery import hookimpl
from surgery.architecture import Architecture


@hookimpl
def surgery_register_architectures() -> list[Architecture]:
    """Return decoders (dense and mixture of experts), GPT-2, BERT, and the generic scheme for all others."""
    from surgery_hf.architectures import ARCHITECTURES

    return list(ARCHITECTURES)
