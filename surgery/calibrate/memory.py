"""Having freed memory go back to the system, so that what was needed before is not held beside what is needed now."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # glibc's malloc.h
_LARGE: Final = 1 << 20


@cache
def free_at_once() -> None:
    """Let the C library give the memory of large buffers back as soon as they are freed, where it can be told (glibc).

    By default it comes to keep up to 64 MiB a thread for later, and what a block's weights leave behind does not fit
    activations. Holds for the rest of the process; costs the first touch of a buffer, little beside a block's products.
    """
    try:
        tell = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    tell(_M_MMAP_THRESHOLD, _LARGE)
