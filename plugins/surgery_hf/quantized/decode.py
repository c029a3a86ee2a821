"""From a checkpoint with quantized tensors to one that shows what they stand for, or to all that stands against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.folder import report
from surgery_hf.quantized import bitsandbytes, compressed, fp8
from surgery_hf.quantized.checkpoint import DecodedCheckpoint
from surgery_hf.quantized.claims import SETTINGS, Claims

METHODS: Final[Mapping[str, Callable[[Claims], None]]] = {
    "bitsandbytes": bitsandbytes.claim,
    "compressed-tensors": compressed.claim,
    "fp8": fp8.claim,
}
_ADVICE: Final = (
    "its quantized tensors cannot be decoded, the reasons follow; mend the checkpoint, or set `decode: false` on"
    " the model to take all tensors as they are stored (`surgery inspect --stored` shows them)"
)


def decoded(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint that decodes while it is read.

    Raises CheckpointError with everything that headers and descriptions show to be wrong.
    """
    told = [found for key in SETTINGS if (found := checkpoint.config.get(key)) is not None]
    claims = Claims(checkpoint, told[0] if told and isinstance(told[0], dict) else {})
    method = _method(claims)
    if method in METHODS:
        METHODS[method](claims)
        if not claims.codecs and not claims.problems:
            claims.problems.append(f"`quant_method` is `{method}`, but no tensor is quantized")
    elif method:
        known = ", ".join(f"`{name}`" for name in METHODS)
        claims.problems.append(f"`quant_method` must be one of {known}, got `{method}`")
    else:
        claims.problems.append(
            "no `quantization_config` in a config.json beside them says how they are coded"
        )
        claims.left_over()
    if claims.problems:
        report(checkpoint.location, [_ADVICE, *claims.problems])
    return DecodedCheckpoint(checkpoint, claims.codecs, claims.hidden)


def _method(claims: Claims) -> str:
    """Return the method that config.json names, or that the tensors show where it names none."""
    told: Any = claims.settings.get("quant_method")
    if told is not None:
        return str(told)
    if "config_groups" in claims.settings:  # how the first writers of compressed-tensors left it
        return "compressed-tensors"
    names = claims.stored.tensors
    return "bitsandbytes" if any(bitsandbytes.STATE in n or n.endswith(".SCB") for n in names) else ""
