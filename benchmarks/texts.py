"""English text that every machine with Python has: docstrings to measure on, the language reference to calibrate on.

Docstrings are explanations with some examples of code among them; the reference (`pydoc_data.topics`) is technical
prose. Both change with Python's version, so figures compare within a run, not across Pythons. The docstrings are not
taken from the reference, but both are about Python, and a model trained on the web has seen either, as it has seen old
novels: what counts is how much worse than itself a model becomes.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path

# documented at length, in words
MODULES = (
    "statistics",
    "argparse",
    "doctest",
    "difflib",
    "textwrap",
    "heapq",
    "fractions",
    "random",
    "typing",
)


def write_docstrings(file: Path, nbytes: int) -> Path:
    """Write the first bytes of the modules' docstrings, whole paragraphs, to a file."""
    kept: list[str] = []
    size = 0
    for text in _docstrings():
        for paragraph in text.split("\n\n"):
            if size + len(paragraph.encode()) + 2 > nbytes:
                return _write(file, kept)
            kept.append(paragraph)
            size += len(paragraph.encode()) + 2
    return _write(file, kept)


def write_reference(file: Path) -> Path:
    """Write Python's language reference, as `help()` has it, to a file."""
    from pydoc_data.topics import topics

    return _write(file, [topics[name] for name in sorted(topics)])


def _docstrings() -> Iterator[str]:
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield inspect.cleandoc(text)


def _write(file: Path, parts: list[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return file
