"""From a checkpoint with quantized tensors to one that shows what they stand for, or to all that stands against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.folder import report
from surgery_hf.quantized import bitsandbytes, compressed, fp8
from surgery_hf.quantized.checkpoint import SETTINGS, DecodedCheckpoint
from surgery_hf.quantized.claims import Claims

METHODS: Final[Mapping[str, Callable[[Claims], None]]] = {
    "bitsandbytes": bitsandbytes.claim,
    "compressed-tensors": compressed.claim,
    "fp8": fp8.claim,
}
_ADVICE: Final = (
    "its tensors cannot be decoded; set `decode: false` on the model to take them as they are stored"
    " (`surgery inspect --stored` shows them)"
)


def decoded(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint that decodes while it is read.

    Raises CheckpointError with everything that headers and descriptions show to be wrong.
    """
    settings, told = _settings(checkpoint)
    claims = Claims(checkpoint, settings)
    method = told or ("bitsandbytes" if any(".quant_state." in n or n.endswith(".SCB") for n in checkpoint.tensors) else "")
    if method in METHODS:
        METHODS[method](claims)
        claims.left_over()
        if not claims.codecs and not claims.problems:
            claims.problems.append(
                f"config.json says `quant_method: {method}`, but no tensor is quantized; remove the stale"
                " `quantization_config`"
            )
    elif method:
        known = ", ".join(f"`{known}`" for known in METHODS)
        claims.problems.append(f"`quant_method: {method}` is not decoded, known: {known}")
    else:
        claims.problems.append("has quantized tensors, but no config.json with a `quantization_config` beside them")
        claims.left_over()
    if claims.problems:
        report_all(checkpoint, claims.problems)
    return DecodedCheckpoint(checkpoint, claims.codecs, claims.hidden)


def report_all(checkpoint: Checkpoint, problems: list[str]) -> None:
    """Raise one CheckpointError for all problems, what to do about them last."""
    report(checkpoint.location, problems)
