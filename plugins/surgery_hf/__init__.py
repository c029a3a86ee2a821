"""What Hugging Face's libraries write: names of tensors, quantized checkpoints, PEFT's adapters."""

from __future__ import annotations

from surgery import hookimpl
from surgery.architecture import Architecture
from surgery.checkpoint.base import AdapterFormat, Checkpoint


@hookimpl
def surgery_register_architectures() -> list[Architecture]:
    """Return decoders (dense and mixture of experts), GPT-2, BERT, and the generic scheme for all others."""
    from surgery_hf.architectures import ARCHITECTURES

    return list(ARCHITECTURES)


@hookimpl
def surgery_decode_checkpoint(checkpoint: Checkpoint) -> Checkpoint | None:
    """Return a view of a quantized checkpoint in float32, of a LoRA adapter with its scales applied; else None."""
    from surgery_hf.kohya import is_kohya, kohya_factors
    from surgery_hf.peft_factors import adapter_folder, factors_of
    from surgery_hf.quantized.claims import is_quantized

    if is_quantized(checkpoint):
        from surgery_hf.quantized.decode import decoded

        return decoded(checkpoint)
    if is_kohya(checkpoint):
        return kohya_factors(checkpoint)
    folder = adapter_folder(checkpoint)
    return factors_of(checkpoint, folder) if folder else None


@hookimpl
def surgery_register_adapters() -> list[AdapterFormat]:
    """Return PEFT's adapters."""
    from surgery_hf.adapters import PEFT

    return [PEFT]
