"""Regular expressions that cannot take long on a tensor's name: they may come from a stranger's recipe.

Python's `re` backtracks. With d parts of variable length one after another a search of n characters takes
up to n^(d+1) steps; a long repetition of something that itself leaves a choice, `(a+)+` or `(a|aa)*`, takes
2^n. The first kind is limited in number, the second refused.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable
from typing import Any, Final

# The standard library has no public parser of regular expressions; this one is the same from 3.11 to 3.14.
_parser: Final[Any] = importlib.import_module("re._parser")

MOST_LOOPS: Final = 5
_FEW: Final = 4  # repetitions that are counted as if they were written out


def search_in(pattern: str) -> Callable[[str], bool]:
    """Return a test for texts in which the pattern is found. Raises ValueError saying why it is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what `re` warns about, `[[` for one, is a mistake here
            search = re.compile(pattern).search
            loops, _ = _measure(_parser.parse(pattern))
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(str(error)) from None
    if loops > MOST_LOOPS:
        raise ValueError(f"more than {MOST_LOOPS} parts of variable length take too long; write fewer")
    return lambda text: search(text) is not None


def _measure(tree: Any) -> tuple[int, bool]:
    """Return how many parts of variable length follow one another, and whether there is any choice at all."""
    loops, choice = 0, False
    for kind, value in tree:
        inside = [_measure(part) for part in _subtrees(value)]
        inner, inner_choice = sum(count for count, _ in inside), any(choice for _, choice in inside)
        if str(kind).endswith("REPEAT"):
            least, most = int(value[0]), int(value[1])
            if most > _FEW and inner_choice:
                raise ValueError("a repetition of what leaves a choice takes too long; unnest it")
            loops += inner * min(most, _FEW) + (most != least)
            choice |= inner_choice or most != least
        else:
            loops += inner
            choice |= inner_choice or str(kind) == "BRANCH"
    return loops, choice


def _subtrees(value: Any) -> list[Any]:
    """Return the parsed expressions inside a node's value."""
    if isinstance(value, _parser.SubPattern):
        return [value]
    return [tree for part in value for tree in _subtrees(part)] if isinstance(value, tuple | list) else []
