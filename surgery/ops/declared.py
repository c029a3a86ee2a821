"""What declarations have in common: a name of two parts, a docstring, a module that they are found in."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any, Protocol, TypeVar

from surgery.errors import PluginError
from surgery.ops.record import Op


def require_name(what: str, name: str) -> None:
    """Refuse names that are not `family.method`; `what` is the kind of thing that is declared."""
    family, dot, method = name.partition(".")
    if not (dot and family.isidentifier() and method.isidentifier()):
        raise PluginError(f"{what} `{name}`: a name is `family.method`; rename it")


def told_of(what: str, name: str, target: Any) -> tuple[str, str]:
    """Return the first line and all of a docstring, which a function or class must have of its own."""
    if not target.__doc__:
        raise PluginError(f"{what} `{name}`: has no docstring; its first line says what it does")
    doc = inspect.cleandoc(target.__doc__)
    return doc.partition("\n")[0].strip(), doc


def ops_in(package: str) -> list[Op]:
    """Import every public module of a package and return the ops that they define, sorted by name."""
    return declared_in(package, Op)


class Declared(Protocol):
    """Something that a decorator made in a plugin's module."""

    @property
    def name(self) -> str:
        """Return its name, `family.method`."""
        ...

    @property
    def module(self) -> str:
        """Return the module that defines it."""
        ...


D = TypeVar("D", bound=Declared)


def declared_in(package: str, kind: type[D]) -> list[D]:
    """Import every public module of a package and return what they declare of one kind, sorted by name."""
    root = importlib.import_module(package)
    found: dict[str, D] = {}
    for module_info in pkgutil.iter_modules(getattr(root, "__path__", [])):
        if not module_info.name.startswith("_"):
            _collect(importlib.import_module(f"{package}.{module_info.name}"), kind, found)
    _collect(root, kind, found)
    return [found[name] for name in sorted(found)]


def _collect(module: Any, kind: type[D], found: dict[str, D]) -> None:
    for value in vars(module).values():
        if isinstance(value, kind) and value.module == module.__name__:
            found[value.name] = value
