"""What Hugging Face's libraries call things: the naming schemes of models, and the adapters that PEFT writes."""

from __future__ import annotations

from surgery import hookimpl
from surgery.architecture import Architecture
from surgery.checkpoint.base import AdapterFormat


@hookimpl
def surgery_register_architectures() -> list[Architecture]:
    """Return decoders (dense and mixture of experts), GPT-2, BERT, and the generic scheme for all others."""
    from surgery_hf.architectures import ARCHITECTURES

    return list(ARCHITECTURES)


@hookimpl
def surgery_register_adapters() -> list[AdapterFormat]:
    """Return PEFT's LoRA adapters."""
    from surgery_hf.adapters import PEFT

    return [PEFT]
