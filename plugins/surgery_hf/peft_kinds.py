"""The kinds of PEFT's adapters that are folded beside LoRA; all others are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from surgery_hf.peft_adalora import ADALORA
from surgery_hf.peft_hra import HRA
from surgery_hf.peft_ia3 import IA3
from surgery_hf.peft_loha import LOHA
from surgery_hf.peft_lokr import LOKR
from surgery_hf.peft_module import Kind
from surgery_hf.peft_oft import BOFT, OFT
from surgery_hf.peft_shira import SHIRA
from surgery_hf.peft_vera import VERA

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind for kind in (ADALORA, IA3, LOHA, LOKR, VERA, OFT, BOFT, HRA, SHIRA)
}

# Why some others never can be.
_PROMPTS: Final = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT"}
)


def why_not(kind: object) -> str:
    """Return what is wrong with a kind of adapter that is not folded, and what to do."""
    if isinstance(kind, str) and kind in _PROMPTS:
        return f"`{kind}` adds to what the model reads, which no weight can do; keep it as an adapter"
    folded = ", ".join(f"`{name}`" for name in ("LORA", *KINDS))
    return f"adapters of peft_type `{kind}` are not folded, {folded} are; merge it with peft"
