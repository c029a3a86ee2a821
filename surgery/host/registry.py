"""Loads plugins when they are needed and keeps what they registered: ops, samplers and evaluators by name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

import pluggy

from surgery import hookspecs
from surgery.errors import PluginError
from surgery.host.discovery import (
    ALWAYS,
    DISABLED,
    FAMILIES,
    Plugin,
    disabled_names,
    discover,
    refuse_another,
)
from surgery.ops import Op
from surgery.trials import EvaluatorKind, SamplerKind

_TRIALS: Final[tuple[tuple[str, str, type[SamplerKind] | type[EvaluatorKind]], ...]] = (
    ("sampler", "surgery_register_samplers", SamplerKind),
    ("evaluator", "surgery_register_evaluators", EvaluatorKind),
)

T = TypeVar("T")


class Registry:
    """What is installed, what of it is loaded, and what that registered."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(FAMILIES)
        self.manager.add_hookspecs(hookspecs)
        self.disabled = disabled_names()
        self.families = discover(FAMILIES, self.disabled)
        self.always = discover(ALWAYS, self.disabled)
        # a plugin may be both, but two may not share a name
        for name in self.families.keys() & self.always.keys():
            refuse_another(self.families[name], self.always[name])
        self.files: dict[str, Plugin] = {}
        self.loaded: dict[str, Plugin] = {}
        self.ops: dict[str, tuple[Op, Plugin]] = {}
        self.trials: dict[tuple[str, str], tuple[Any, Plugin]] = {}  # samplers and evaluators

    def load(self, plugin: Plugin) -> None:
        """Import a plugin and keep what it registers, once. Raises PluginError if it breaks the contract."""
        if plugin.name in self.loaded or plugin.entry is None:
            return
        try:
            module = plugin.entry.load()
        except Exception as error:
            raise PluginError(
                f"{plugin}: failed to import: {type(error).__name__}: {error}; "
                f"mend or update it, or set {DISABLED}={plugin.name}"
            ) from error
        self._register(plugin, module)

    def load_always(self) -> None:
        """Load the plugins that every run asks."""
        for plugin in self.always.values():
            self.load(plugin)

    def load_file(self, file: Path) -> None:
        """Load a Python file that was named on the command line."""
        plugin = Plugin(file.stem, str(file), "", file=file)
        if not file.is_file():
            raise PluginError(f"--plugin {file}: no such file; give the path of a Python file")
        if plugin.name in self.families or plugin.name in self.loaded:
            raise PluginError(f"--plugin {file}: the name `{plugin.name}` is taken; rename the file")
        spec = importlib.util.spec_from_file_location(f"surgery_plugin_{file.stem}", file)
        if spec is None or spec.loader is None:
            raise PluginError(f"--plugin {file}: not a Python file; give the path of a .py file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where pydantic looks for the names that annotations mention
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise PluginError(
                f"--plugin {file}: failed to import: {type(error).__name__}: {error}; mend the file"
            ) from error
        self._register(plugin, module)
        self.files[plugin.name] = plugin

    def each(self, hook: str) -> Iterator[tuple[Plugin, Any]]:
        """Yield every plugin loaded so far, those asked in every run among them, with its own caller of a hook.

        They come in the order of their names.
        """
        self.load_always()
        for name in sorted(self.loaded):
            yield self.loaded[name], self._caller(hook, self.manager.get_plugin(name))

    def gather(self, hook: str, kind: type[T]) -> list[tuple[T, Plugin]]:
        """Ask each loaded plugin for one kind of thing, in the order of the plugins' names."""
        return [
            (thing, plugin)
            for plugin, ask in self.each(hook)
            for thing in _require(kind, hook, plugin, [thing for answer in ask() for thing in answer])
        ]

    def _caller(self, hook: str, module: Any) -> Any:
        others = [other for other in self.manager.get_plugins() if other is not module]
        return self.manager.subset_hook_caller(hook, others)

    def _register(self, plugin: Plugin, module: ModuleType) -> None:
        try:
            self.manager.register(module, name=plugin.name)
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            if self.manager.is_registered(module):
                self.manager.unregister(module)
            told = " ".join(str(error).split())
            raise PluginError(
                f"{plugin}: {told}; compare with the signatures in surgery.hookspecs"
            ) from error
        self.loaded[plugin.name] = plugin
        for op in self._ops_of(plugin, module):
            self._add_op(op, plugin)
        for what, hook, kind in _TRIALS:
            for thing in self._declared(plugin, module, hook, kind):
                self._add_trial(what, thing, plugin)

    def _ops_of(self, plugin: Plugin, module: ModuleType) -> list[Op]:
        """Ask one plugin for its ops; a file given with --plugin may simply define them."""
        if hasattr(module, "surgery_register_ops"):
            answers = self._caller("surgery_register_ops", module)()
            ops = [op for answer in answers for op in answer]
        elif plugin.file is not None:
            ops = [op for op in vars(module).values() if isinstance(op, Op) and op.module == module.__name__]
        else:
            ops = []
        for op in ops:
            if not isinstance(op, Op):
                raise PluginError(f"{plugin}: surgery_register_ops returned {op!r}; return what @op made")
        return ops

    def _add_op(self, op: Op, plugin: Plugin) -> None:
        if plugin.file is None and op.family != plugin.name:
            raise PluginError(
                f"{plugin}: registers op `{op.name}`, its ops are called `{plugin.name}.<method>`; rename the op"
            )
        if plugin.file is not None and op.family in self.families:
            raise PluginError(
                f"{plugin}: registers op `{op.name}`, the family `{op.family}` belongs to "
                f"{self.families[op.family]}; choose another family name"
            )
        if op.name in self.ops:
            raise PluginError(
                f"{plugin}: registers op `{op.name}`, so does {self.ops[op.name][1]}; rename one"
            )
        self.ops[op.name] = (op, plugin)

    def _declared(self, plugin: Plugin, module: ModuleType, hook: str, kind: type[T]) -> list[T]:
        """Ask one plugin for its samplers or evaluators; a file given with --plugin may simply define them."""
        if not hasattr(module, hook):
            return [thing for thing in vars(module).values() if plugin.file and isinstance(thing, kind)]
        answers = self._caller(hook, module)()
        return _require(kind, hook, plugin, [thing for answer in answers for thing in answer])

    def _add_trial(self, what: str, thing: SamplerKind | EvaluatorKind, plugin: Plugin) -> None:
        family = thing.name.partition(".")[0]
        if plugin.file is None and family != plugin.name:
            raise PluginError(
                f"{plugin}: registers {what} `{thing.name}`, its names are `{plugin.name}.<method>`; rename it"
            )
        owner = self.families.get(family) if plugin.file is not None else None
        owner = owner or self.trials.get((what, thing.name), (None, None))[1]
        if owner is not None:
            raise PluginError(
                f"{plugin}: registers {what} `{thing.name}`, which belongs to {owner}; choose another name"
            )
        self.trials[what, thing.name] = (thing, plugin)


def _require(kind: type[T], hook: str, plugin: Plugin, things: list[T]) -> list[T]:
    """Refuse what a hook returned and is of another kind."""
    for thing in things:
        if not isinstance(thing, kind):
            raise PluginError(f"{plugin}: {hook} returned {thing!r}, not a {kind.__name__}")
    return things
