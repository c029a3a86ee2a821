"""Safe, limited YAML with positions.

PyYAML composes the node graph; the plain data is built here, so that nothing is ever constructed by tag.
What is read is YAML 1.2's core schema, narrowed: `true` and `false` alone are booleans, `010` is ten,
`1e-5` is a float, dates are text. Refused, each with its place: more than 1 MiB, nesting beyond 32 levels,
more than 50,000 values (what an alias repeats counts each time, so that a small text cannot grow large),
duplicate keys, keys that are not text, merge keys, tags; several documents where one is asked for.

One thing is added to YAML: `${search: ...}` where a value may stand is a hole for `surgery search`. It reads as the
mapping within the braces, and the document says where the holes are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import yaml

from surgery.errors import Finding, RecipeError
from surgery.recipe.document import MOST, Document, KeyPath, Position, clipped, dotted, shown

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32
MAX_NODES: Final = 50_000

_DEEP: Final = f"nested too deeply, got more than {MAX_DEPTH} levels"
_MANY: Final = f"too many values, got more than {MAX_NODES:,} (what an alias repeats counts each time)"

_TAG: Final = "tag:yaml.org,2002:"
_FORMS: Final = {
    "null": re.compile(r"null|~|"),
    "bool": re.compile(r"true|false"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}
_HOLE: Final = "${search"
_KINDS: Final = {yaml.ScalarNode: "str", yaml.SequenceNode: "seq", yaml.MappingNode: "map"}
# what an escape can smuggle in: terminal sequences, NUL in a path, halves of characters that no file can hold
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")


def read_yaml(text: str | bytes, file: str = "<recipe>") -> Document:
    """Read one YAML document as plain data with positions.

    Raises RecipeError with `file:line:col` for text that is not UTF-8, not YAML, or refused.
    """
    return only(read_documents(text, file))


def only(documents: Sequence[Document]) -> Document:
    """Return the one document of a text. Raises RecipeError if there are more."""
    first, *others = documents
    if others:
        what = "a second document; a recipe is one document: remove the rest"
        raise RecipeError(Finding(what, others[0].where(())))
    return first


def read_documents(text: str | bytes, file: str = "<recipe>") -> list[Document]:
    """Read all documents of a text, at least one, under the limits that hold for the text as a whole.

    Raises RecipeError as `read_yaml` does.
    """
    text = _decoded(text, file)
    roots, holes = _composed(text, file)
    return [_built(text, file, root, holes) for root in roots]


def _built(text: str, file: str, root: yaml.Node | None, holes: dict[int, Position]) -> Document:
    build = _Build(file, holes)
    data = build.value(root, ()) if root is not None else None
    if build.found:
        in_order = sorted(build.found, key=lambda found: found[0])
        raise RecipeError([finding for _, finding in in_order[:MOST]])
    return Document(file, text, data, build.positions, build.keys, tuple(build.at_holes))


def _decoded(text: str | bytes, file: str) -> str:
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise RecipeError(Finding(f"the text is too long, got more than {MAX_BYTES:,} bytes", file))
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        where = _end_of(text[: error.start].decode())
        what = f"not UTF-8, got byte 0x{text[error.start]:02x}; save the file as UTF-8"
        raise RecipeError(Finding(what, f"{file}:{where}")) from None


def _end_of(text: str) -> Position:
    """Return the position that follows `text`."""
    return Position(text.count("\n") + 1, len(text) - text.rfind("\n"))


def _place(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _composed(text: str, file: str) -> tuple[list[yaml.Node | None], dict[int, Position]]:
    """Return the documents' roots, [None] for a text without values, and where nodes that are holes begin."""
    try:
        loader = _Loader(text)
        return _compose(loader), loader.holes
    except yaml.reader.ReaderError as error:
        place = _end_of(text[: error.position])
        what = f"not valid YAML: the character U+{ord(text[error.position]):04X} is not allowed"
    except yaml.MarkedYAMLError as error:
        place, what = _place(error.problem_mark or error.context_mark), _complaint(error)
    raise RecipeError(Finding(what, f"{file}:{place}"))


def _compose(loader: _Loader) -> list[yaml.Node | None]:
    roots: list[yaml.Node | None] = []
    try:
        while loader.check_node():
            roots.append(loader.get_node())
    except (ValueError, OverflowError):
        # PyYAML converts escapes ("\UFFFFFFFF") and version numbers without looking at their size
        what = "not valid YAML: a number or an escape is out of range"
        raise _RefusedError(problem=what, problem_mark=loader.get_mark()) from None
    return roots or [None]


def _next(loader: Any) -> Any:
    """Return where what has not been composed yet begins."""
    return loader.peek_event().start_mark


def _complaint(error: yaml.MarkedYAMLError) -> str:
    """Return PyYAML's complaint, in our words where it has a usual cause."""
    problem = clipped(str(error.problem or error.context), 200)
    if isinstance(error, _RefusedError):
        return problem
    if "'\\t'" in problem:
        return "not valid YAML: a tab cannot indent; use spaces"
    if "mapping values are not allowed" in problem:
        return "not valid YAML: unexpected `:`; quote text that contains `: `, or mend the indentation"
    if "found '<block mapping start>'" in problem:
        return "not valid YAML: indented unlike the keys above; mend the indentation"
    return f"not valid YAML: {problem}"


class _RefusedError(yaml.MarkedYAMLError):
    """Valid YAML that is not read."""


class _Loader(yaml.SafeLoader):
    """PyYAML's composer with our resolver, and with limits that keep it from recursing or growing."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.nodes = 0
        self.holes: dict[int, Position] = {}  # by the ids of nodes: all of them live as long as the root
        self.dollars: dict[Position, Position] = {}  # from behind a hole's opening brace to its `$`

    def fetch_plain(self) -> None:
        """Take `${search` for the beginning of a mapping, whose place is noted; anything else is plain text."""
        if self.prefix(len(_HOLE)) == _HOLE and self.peek(len(_HOLE)) in ":} \t\r\n\0":
            dollar = _place(self.get_mark())
            self.forward()
            self.fetch_flow_mapping_start()
            self.dollars[_place(self.get_mark())] = dollar
        else:
            super().fetch_plain()

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping, and note it if its brace is a hole's."""
        dollar = self.dollars.get(_place(self.peek_event().end_mark))  # type: ignore[no-untyped-call]
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        if dollar is not None:
            self.holes[id(node)] = dollar
        return node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.nodes += 1
        for value, limit, what in ((self.depth, MAX_DEPTH, _DEEP), (self.nodes, MAX_NODES, _MANY)):
            if value > limit:
                raise _RefusedError(problem=what, problem_mark=_next(self))
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode and implicit[0]:
            return _TAG + next((name for name, form in _FORMS.items() if form.fullmatch(value)), "str")
        return _TAG + _KINDS[kind]


@dataclass(slots=True)
class _Build:
    """Turns nodes into plain data; collects places, and whatever is wrong where it can go on."""

    file: str
    holes: dict[int, Position]
    at_holes: list[KeyPath] = field(default_factory=list)
    positions: dict[KeyPath, Position] = field(default_factory=dict)
    keys: dict[KeyPath, Position] = field(default_factory=dict)
    found: list[tuple[Position, Finding]] = field(default_factory=list)
    nodes: int = 0
    open: list[int] = field(default_factory=list)

    def refuse(self, node: yaml.Node, path: KeyPath, what: str) -> None:
        place = _place(node.start_mark)
        self.found.append((place, Finding(what, f"{self.file}:{place}", dotted(path))))

    def stop(self, node: yaml.Node, path: KeyPath, what: str) -> NoReturn:
        raise RecipeError(Finding(what, f"{self.file}:{_place(node.start_mark)}", dotted(path[:3])))

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.nodes += 1
        if id(node) in self.open:
            self.stop(node, path, "an alias to what contains it; write the value out")
        if len(path) > MAX_DEPTH:
            self.stop(node, path, _DEEP)
        if self.nodes > MAX_NODES:
            self.stop(node, path, _MANY)
        self.positions[path] = _place(node.start_mark)
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode) and (kind in _FORMS or kind == "str"):
            return self.scalar(node, kind, path)
        if kind != _KINDS[type(node)]:
            return self.refuse(node, path, f"a tag, got {shown(node.tag.replace(_TAG, '!!'))}; remove it")
        return self.collection(node, path)

    def collection(self, node: yaml.Node, path: KeyPath) -> dict[str, Any] | list[Any]:
        self.open.append(id(node))
        data: dict[str, Any] | list[Any]
        if isinstance(node, yaml.MappingNode):
            if id(node) in self.holes:
                self.at_holes.append(path)
                self.positions[path] = self.holes[id(node)]
            data = self.mapping(node, path)
        else:
            data = [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        self.open.pop()
        return data

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            wrong = _wrong_key(key_node)
            if wrong:
                self.refuse(key_node, path, wrong)
                continue
            key, inner = key_node.value, (*path, key_node.value)
            if key in data:
                lines = f"lines {self.keys[inner].line} and {key_node.start_mark.line + 1}"
                self.refuse(key_node, inner, f"written twice, on {lines}; keep one")
                continue
            self.keys[inner] = _place(key_node.start_mark)
            data[key] = self.value(value_node, inner)
        return data

    def scalar(self, node: yaml.ScalarNode, kind: str, path: KeyPath) -> Any:
        text = str(node.value)
        if kind == "str":
            if _UNPRINTABLE.search(text):
                self.refuse(node, path, "text with control characters; remove them")
            return text
        if not _FORMS[kind].fullmatch(text):
            return self.refuse(node, path, f"the tag says {kind}, got {shown(text)}; remove the tag")
        if kind in ("null", "bool"):
            return {"true": True, "false": False}.get(text)
        number = _whole(text) if kind == "int" else _real(text)
        if number is None:
            self.refuse(node, path, f"the number is too large, got {shown(text)}")
        return number


def _wrong_key(node: yaml.Node) -> str | None:
    """Say what is wrong with a key, None if it is text."""
    if not isinstance(node, yaml.ScalarNode):
        return f"a key must be text, got {shown(node.value if isinstance(node, yaml.SequenceNode) else {})}"
    if node.tag != _TAG + "str":
        return f'a key must be text, got {shown(node.value)}; quote it: `"{clipped(node.value)}"`'
    if node.value == "<<":
        return "merge keys are not supported, got `<<`; write the keys out"
    if _UNPRINTABLE.search(node.value):
        return "a key with control characters; remove them"
    return None


def _whole(text: str) -> int | None:
    """Return the value of a whole number, None beyond 64 bits."""
    if len(text) > 70:  # int() takes quadratic time, and refuses 4,300 digits
        return None
    value = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return value if -(1 << 63) <= value < 1 << 64 else None


def _real(text: str) -> float | None:
    """Return the value of a float, None if only an infinity that was not written could hold it."""
    text = text.lower()
    value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
    return None if value in (float("inf"), float("-inf")) and "inf" not in text else value
