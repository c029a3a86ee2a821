"""Selectors: which tensors of a model are meant.

    layers[4:28]           layers 4 to 27; `layers[4:]`, `layers[:28]`, `layers[3]`, `layers` (any layer)
    mlp, attention.q       a role: `mlp` takes in `mlp.gate`, `mlp.up` and `mlp.down`
    layers[4:28].mlp       both: that role in those layers
    decoder.layers[2:]     some layers of one stack, where a model has several: an encoder and a decoder
    experts[0:4]           some experts of a mixture; `layers[2:].experts[1].down`
    experts.shared         experts that all tokens go through; `experts.routed` is the others, as `experts` is
    lm_head.weight         a tensor by its full name; `lm_head` is all tensors of that module
    model.layers.*.mlp.*   a glob on the name: `*` stands for any characters, `?` for one
    re:q_proj|k_proj       a regular expression found anywhere in the name

Roles are attention (q, k, v, o, qkv, norm), mlp (gate, up, down), experts and shared_expert (the same),
router, norm (input, post, final), embed and head; an architecture may have more. `layers` means those of every
stack, unless a word of the stack's path stands before it (`decoder` of `model.decoder.layers`). Ranges are half
open as in Python, indices are not negative, case matters. In a list one selector that matches is enough; an
entry that starts with `!` takes tensors away again, wherever it stands, and a list of such entries alone takes
them from all tensors.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from surgery.recipe.document import shown
from surgery.recipe.regex import search_in
from surgery.tensors import TensorInfo

ACCEPTED: Final = "write `layers[4:28]`, a role such as `mlp`, both, a tensor's name, a glob or `re:...`"

_LONGEST: Final = 1000
_PART: Final = re.compile(r"([A-Za-z0-9_-]+)(\[([^\[\]]*)\])?")
_PARTS: Final = re.compile(rf"{_PART.pattern}(?:\.{_PART.pattern})*")
_WORD: Final = re.compile(r"[^\s.\[\](){}]+(?:\.[^\s.\[\](){}]+)*")
_RANGE: Final = re.compile(r"\s*(\d{0,9})\s*(?:(:)\s*(\d{0,9})\s*)?", re.ASCII)
_NUMBER: Final = re.compile(r"(?<![A-Za-z0-9_])\d+(?![A-Za-z0-9_])")

_ROLES: Final = frozenset(["attention", "mlp", "experts", "shared_expert", "router", "norm", "embed", "head"])

# Two words for what experts are, beside the roles' own.
_EXPERTS: Final = {"experts.routed": "experts", "experts.shared": "shared_expert"}

Test = Callable[[TensorInfo], bool]


@dataclass(frozen=True, slots=True)
class Selector:
    """One selector, compiled."""

    text: str
    test: Test = field(repr=False, compare=False)
    layers: range | None = None  # those that it names, in brackets
    stack: str = ""  # and the words before them

    def matches(self, info: TensorInfo) -> bool:
        """Return whether the selector means this tensor."""
        return self.test(info)


@dataclass(frozen=True, slots=True)
class Selection:
    """A union of selectors, less those that start with `!`. Raises ValueError as `compile_selector` does."""

    texts: Sequence[str]
    _wanted: tuple[Selector, ...] = field(init=False, repr=False, compare=False)
    _unwanted: tuple[Selector, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        texts = [text.strip() for text in self.texts]
        unwanted = tuple(compile_selector(text[1:]) for text in texts if text.startswith("!"))
        wanted = tuple(compile_selector(text) for text in texts if not text.startswith("!"))
        object.__setattr__(self, "texts", tuple(texts))
        object.__setattr__(self, "_wanted", wanted)
        object.__setattr__(self, "_unwanted", unwanted)

    def matches(self, info: TensorInfo) -> bool:
        """Return whether one of the selectors means this tensor and none takes it away."""
        if self._wanted and not any(selector.test(info) for selector in self._wanted):
            return False
        return not any(selector.test(info) for selector in self._unwanted)

    def idle(self, infos: Sequence[TensorInfo]) -> list[int]:
        """Return which of several selectors mean none of these tensors, so that their texts are misspelled."""
        tests = [compile_selector(text.removeprefix("!")).test for text in self.texts]
        return [i for i, test in enumerate(tests) if not any(map(test, infos))]


@lru_cache(maxsize=4096)
def compile_selector(text: str) -> Selector:
    """Return a selector that can be asked. Raises ValueError saying what is wrong and what is accepted."""
    text = text.strip()
    if not text or len(text) > _LONGEST:
        raise ValueError(f"a selector has 1 to {_LONGEST} characters, got {shown(text)}; {ACCEPTED}")
    if text.startswith("re:"):
        return Selector(text, _regex(text))
    if text.startswith("!"):
        raise ValueError(f"`!` stands once and only in `where`, got {shown(text)}; {ACCEPTED}")
    if "*" in text or "?" in text:
        return Selector(text, _glob(text))
    return _structure(text) if "[" in text or "]" in text else Selector(text, _word(text))


def _regex(text: str) -> Test:
    try:
        found = search_in(text.removeprefix("re:"))
    except ValueError as error:
        raise ValueError(f"not a usable regular expression, got {shown(text)}: {error}") from None
    return lambda info: found(info.spec.name)


def _glob(text: str) -> Test:
    if "[" in text or "]" in text:
        what = "brackets do not go with `*` and `?`"
        raise ValueError(f"{what}, got {shown(text)}; write `layers[4:28].mlp` or `re:...`")
    match = re.compile(fnmatch.translate(text)).match
    return lambda info: match(info.spec.name) is not None


def _word(text: str) -> Test:
    """A role, a tensor's name or a module's: which of them, only the model knows."""
    if not _WORD.fullmatch(text):
        raise ValueError(f"not a selector, got {shown(text)}; {ACCEPTED}")
    role, named = _under(_kind(text)), _under(text)
    layers, dot, inner = text.partition(".")
    if layers != "layers":
        return lambda info: role(info.role.kind) or named(info.spec.name)
    in_layer = _under(_kind(inner)) if dot else _anything
    return lambda info: (info.role.layer is not None and in_layer(info.role.kind)) or named(info.spec.name)


def _kind(text: str) -> str:
    """Return a role as tensors have it: `experts.shared.up` is `shared_expert.up`."""
    for written, kind in _EXPERTS.items():
        if text == written or text.startswith(written + "."):
            return kind + text.removeprefix(written)
    return text


def _under(text: str) -> Callable[[str], bool]:
    """Return a test for `text` itself and for what continues it after a dot."""
    prefix = text + "."
    return lambda word: word == text or word.startswith(prefix)


def _anything(_: str) -> bool:
    return True


def _structure(text: str) -> Selector:
    """Layers by index, perhaps those of one stack, a role, experts by index."""
    if not _PARTS.fullmatch(text):
        raise ValueError(f"not a selector, got {shown(text)}; {ACCEPTED}")
    stack, parts = _stack(_PART.findall(text))
    layers = experts = None
    words: list[str] = []
    for i, (word, bracket, inside) in enumerate(parts):
        if word == "layers" and i == 0:
            layers = _range(inside if bracket else ":", text)
            continue
        if bracket and word == "experts" and not words:
            experts = _range(inside, text)
        elif bracket:
            raise ValueError(f"brackets belong to `layers` and then `experts`, got {shown(text)}; {ACCEPTED}")
        words.append(word)
    role = _under(_kind(".".join(words))) if words else _anything

    def test(info: TensorInfo) -> bool:
        found = info.role
        inside = _inside(found.stack, stack)
        return inside and _within(found.layer, layers) and _within(found.expert, experts) and role(found.kind)

    return Selector(text, test, layers, stack)


def _stack(parts: list[tuple[str, str, str]]) -> tuple[str, list[tuple[str, str, str]]]:
    """Return the words that stand before `layers[...]`, and what follows them; roles are no stacks."""
    at = next((i for i, (word, bracket, _) in enumerate(parts) if word == "layers" and bracket), 0)
    before = parts[:at]
    if any(bracket or word in _ROLES for word, bracket, _ in before):
        return "", parts
    return ".".join(word for word, _, _ in before), parts[at:]


def _inside(stack: str, words: str) -> bool:
    return not words or f".{words}." in f".{stack}."


def _within(index: int | None, indices: range | None) -> bool:
    return indices is None or (index is not None and index in indices)


def _range(inside: str, text: str) -> range:
    """Return the indices that brackets hold: one, or a half-open range."""
    match = _RANGE.fullmatch(inside)
    if not match or not (match[1] or match[2]):
        accepted = "brackets hold an index or a range from 0 up: `[3]`, `[4:28]`, `[4:]` or `[:28]`"
        raise ValueError(f"{accepted}, got {shown(text)}")
    start = int(match[1] or 0)
    stop = start + 1 if not match[2] else int(match[3] or sys.maxsize)
    if stop <= start:
        raise ValueError(f"an empty range, got {shown(text)}; a range ends before its second index")
    return range(start, stop)


def overrun(text: str, infos: Iterable[TensorInfo]) -> str:
    """Return what to do about a selector that names layers behind the last of these tensors' layers; else ""."""
    selector = compile_selector(text.strip().removeprefix("!"))
    if selector.layers is None:
        return ""
    roles = [info.role for info in infos if _inside(info.role.stack, selector.stack)]
    count = 1 + max((role.layer for role in roles if role.layer is not None), default=-1)
    named = selector.layers.stop if selector.layers.stop < sys.maxsize else selector.layers.start + 1
    if not count or named <= count:
        return ""
    return "there is 1 layer, `layers[0]`" if count == 1 else f"there are {count} layers, `layers[0:{count}]`"


def meant(text: str, infos: Iterable[TensorInfo]) -> str:
    """Return what to do about a selector that matches none of these tensors: try a likely one, or look."""
    infos = list(infos)
    past = overrun(text, infos) if text else ""
    if past:
        return past
    known = {word for info in infos for word in (info.spec.name, info.role.kind)}
    near = nearest_names(text, known)
    if not near:
        return "see the names with `surgery inspect`"
    return "did you mean " + " or ".join(f"`{name}`" for name in near) + "?"


def nearest_names(text: str, names: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """Return what a selector that matches nothing may have meant, nearest first.

    `names` are the model's tensor names, and its roles where they are known. Numbers come back as `*`, and the
    first part of a name alone is one too.
    """
    text = text.strip().removeprefix("!").removeprefix("re:")
    if "[" in text and _PARTS.fullmatch(text):
        text = ".".join(word for word, _, _ in _PART.findall(text) if word != "layers")
    whole = {_NUMBER.sub("*", name) for name in names}
    known = sorted(whole | {name.partition(".")[0] for name in whole})
    return tuple(difflib.get_close_matches(_NUMBER.sub("*", text), known, n=limit, cutoff=0.5))
