"""Which tokens of two tokenizers are the same: by role, by text, by what their bytes are.

Byte-level BPE writes ` the` as `Ġthe`, sentencepiece as `▁the`, and single bytes as `<0xE2>`. Tokens that a tokenizer
was given by name (`<|end|>`) are compared as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from surgery_stitch._settings import text_part
from surgery_stitch._speaker import SPECIAL, Speaker

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def matches(host: Speaker, donor: Speaker) -> dict[int, int]:
    """Return for rows of the donor the host's rows of the same token; special tokens are matched by role first."""
    alike = host.byte_level == donor.byte_level
    known: dict[str | bytes, int] = {}
    # a letter's own token comes before its byte's, which is hardly ever trained
    for token, row in sorted(host.ids.items(), key=lambda one: _BYTE.fullmatch(one[0]) is not None):
        known.setdefault(token if alike else meaning(host, token), row)
    found = {}
    for token, row in donor.ids.items():
        same = known.get(token if alike else meaning(donor, token))
        if same is not None:
            found[row] = same
    return found | _by_role(host, donor)


def _by_role(host: Speaker, donor: Speaker) -> dict[int, int]:
    ours, theirs = text_part(host.view.config), text_part(donor.view.config)
    pairs = ((_first(theirs, key), _first(ours, key)) for key in SPECIAL)
    return {a: b for a, b in pairs if a is not None and b is not None and a < donor.rows and b < host.rows}


def _first(config: Mapping[str, object], key: str) -> int | None:
    value = config.get(key)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, int) else None


def meaning(speaker: Speaker, token: str) -> str | bytes:
    """Return the bytes that a token stands for; an added token, and what is no letter for a byte, as it is."""
    if token in speaker.added:
        return token
    if speaker.byte_level:
        letters = gpt2_letters()
        return bytes(letters[c] for c in token) if all(c in letters for c in token) else token
    found = _BYTE.fullmatch(token)
    return bytes([int(found[1], 16)]) if found else token.replace("▁", " ").encode()


@cache
def gpt2_letters() -> dict[str, int]:
    """Return the byte that each of GPT-2's 256 letters stands for: printable ones themselves, others from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
