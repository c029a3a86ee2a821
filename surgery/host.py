"""The only file that knows how plugins are found, loaded and asked. A family is loaded when a recipe names it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pluggy

from surgery import hookspecs
from surgery.architecture import Architecture
from surgery.errors import CheckpointError, PluginError, did_you_mean
from surgery.ops import Op
from surgery.trials import EvaluatorKind, SamplerKind

if TYPE_CHECKING:
    from types import ModuleType

    from surgery.checkpoint.base import AdapterFormat, Checkpoint, Format, Scheme
    from surgery.checkpoint.base_publisher import Destination
    from surgery.plan.model import Plan
    from surgery.recipe.document import Document
    from surgery.recipe.foreign import Translated

FAMILIES = "surgery"
ALWAYS = "surgery.always"
DISABLED = "SURGERY_DISABLED_PLUGINS"

_TRIALS: Final[tuple[tuple[str, str, type[SamplerKind] | type[EvaluatorKind]], ...]] = (
    ("sampler", "surgery_register_samplers", SamplerKind),
    ("evaluator", "surgery_register_evaluators", EvaluatorKind),
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that is installed or was named on the command line: its name, distribution and version."""

    name: str
    origin: str
    version: str
    entry: importlib.metadata.EntryPoint | None = None
    file: Path | None = None
    always: bool = False

    def __str__(self) -> str:
        return f"plugin {self.name} ({self.origin} {self.version})" if self.version else f"plugin {self.name}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a plugin that is loaded adds: its module, its hooks in the order in which they fire, its ops by name."""

    module: ModuleType
    hooks: tuple[str, ...]
    ops: tuple[Op, ...]


class Host:
    """Finds plugins, loads them when they are needed, and keeps what they registered."""

    def __init__(self, files: Iterable[Path] = ()) -> None:
        self._manager = pluggy.PluginManager(FAMILIES)
        self._manager.add_hookspecs(hookspecs)
        self._disabled = {name for name in os.environ.get(DISABLED, "").replace(",", " ").split() if name}
        self._loaded: dict[str, Plugin] = {}
        self._ops: dict[str, tuple[Op, Plugin]] = {}
        self._trials: dict[tuple[str, str], tuple[Any, Plugin]] = {}  # samplers and evaluators
        self.families = _discover(FAMILIES, self._disabled)
        self.always = _discover(ALWAYS, self._disabled)
        # a plugin may be both, but two may not share a name
        for name in self.families.keys() & self.always.keys():
            _refuse_another(self.families[name], self.always[name])
        self.files: dict[str, Plugin] = {}
        for file in files:
            self._load_file(file)

    @property
    def hook(self) -> Any:
        """Return pluggy's callers of the plugins loaded so far, those asked in every run among them."""
        self._load_always()
        return self._manager.hook

    def op(self, name: str) -> Op | None:
        """Return the op called `name`, loading its family; None if there is no such op."""
        family = name.partition(".")[0]
        if family in self.families:
            self._load(self.families[family])
        found = self._ops.get(name)
        return found[0] if found else None

    def plugin_of(self, name: str) -> Plugin:
        """Return the plugin that registered the op `name`."""
        return self._ops[name][1]

    def ops(self) -> dict[str, Op]:
        """Load every family and return all ops by name, sorted."""
        for plugin in self.families.values():
            self._load(plugin)
        return {name: self._ops[name][0] for name in sorted(self._ops)}

    def op_names(self) -> list[str]:
        """Return what ops there are, for suggestions: families that fail to load are left out."""
        for plugin in self.families.values():
            try:
                self._load(plugin)
            except PluginError:
                continue
        return sorted(self._ops)

    def architectures(self) -> list[Architecture]:
        """Return what the plugins know of model types; two claims on one model type are an error."""
        found = self._gather("surgery_register_architectures", Architecture)
        _refuse_twice("model type", [(kind, plugin) for a, plugin in found for kind in a.model_types])
        return [architecture for architecture, _ in found]

    def formats(self) -> list[Format]:
        """Return the checkpoint formats that plugins read."""
        from surgery.checkpoint.base import Format

        found = self._gather("surgery_register_formats", Format)
        _refuse_twice("format", [(format_.name, plugin) for format_, plugin in found])
        return [format_ for format_, _ in found]

    def destinations(self) -> list[Destination]:
        """Return the places that plugins publish outputs to."""
        from surgery.checkpoint.base_publisher import Destination

        found = self._gather("surgery_register_destinations", Destination)
        _refuse_twice("destination", [(destination.name, plugin) for destination, plugin in found])
        return [destination for destination, _ in found]

    def adapters(self) -> list[AdapterFormat]:
        """Return the adapter formats that plugins fold into a base."""
        from surgery.checkpoint.base import AdapterFormat

        found = self._gather("surgery_register_adapters", AdapterFormat)
        _refuse_twice("adapter format", [(format_.name, plugin) for format_, plugin in found])
        return [format_ for format_, _ in found]

    def decoded(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the view that the first plugin has of a checkpoint whose tensors are coded, else the checkpoint.

        Raises CheckpointError, the checkpoint closed, when a plugin says that its codes cannot be decoded.
        """
        from surgery.checkpoint.base import Checkpoint

        self._load_always()
        for name in sorted(self._loaded):
            module = self._manager.get_plugin(name)
            others = [other for other in self._manager.get_plugins() if other is not module]
            ask = self._manager.subset_hook_caller("surgery_decode_checkpoint", others)
            try:
                found = ask(checkpoint=checkpoint)
            except CheckpointError:
                checkpoint.close()
                raise
            if isinstance(found, Checkpoint):
                return found
            if found is not None:
                raise PluginError(
                    f"{self._loaded[name]}: surgery_decode_checkpoint returned {found!r}, not a Checkpoint"
                )
        return checkpoint

    def schemes(self) -> list[Scheme]:
        """Return the URI schemes that plugins open."""
        from surgery.checkpoint.base import Scheme

        found = self._gather("surgery_register_sources", Scheme)
        _refuse_twice("scheme", [(scheme.name, plugin) for scheme, plugin in found])
        return [scheme for scheme, _ in found]

    def load(self, plugin: Plugin) -> Loaded:
        """Load one of `families`, `always` or `files`, nothing else, and return what it adds.

        Raises PluginError if it does not import or breaks the contract.
        """
        self._load(plugin)
        module = self._manager.get_plugin(plugin.name)
        assert module is not None
        callers = self._manager.get_hookcallers(module) or []
        implemented = {caller.name for caller in callers}
        hooks = tuple(name for name in vars(hookspecs) if name in implemented)
        ops = tuple(
            self._ops[name][0] for name in sorted(self._ops) if self._ops[name][1].name == plugin.name
        )
        return Loaded(module, hooks, ops)

    def _load_always(self) -> None:
        for plugin in self.always.values():
            self._load(plugin)

    def _load(self, plugin: Plugin) -> None:
        if plugin.name in self._loaded or plugin.entry is None:
            return
        try:
            module = plugin.entry.load()
        except Exception as error:
            raise PluginError(
                f"{plugin}: failed to import: {type(error).__name__}: {error}; "
                f"mend or update it, or set {DISABLED}={plugin.name}"
            ) from error
        self._register(plugin, module)

    def _load_file(self, file: Path) -> None:
        plugin = Plugin(file.stem, str(file), "", file=file)
        if not file.is_file():
            raise PluginError(f"--plugin {file}: no such file; give the path of a Python file")
        if plugin.name in self.families or plugin.name in self._loaded:
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

    def _register(self, plugin: Plugin, module: ModuleType) -> None:
        try:
            self._manager.register(module, name=plugin.name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            if self._manager.is_registered(module):
                self._manager.unregister(module)
            told = " ".join(str(error).split())
            raise PluginError(
                f"{plugin}: {told}; compare with the signatures in surgery.hookspecs"
            ) from error
        self._loaded[plugin.name] = plugin
        for op in self._ops_of(plugin, module):
            self._add_op(op, plugin)
        for what, hook, kind in _TRIALS:
            for thing in self._declared(plugin, module, hook, kind):
                self._add_trial(what, thing, plugin)

    def _ops_of(self, plugin: Plugin, module: ModuleType) -> list[Op]:
        """Ask one plugin for its ops; a file given with --plugin may simply define them."""
        if hasattr(module, "surgery_register_ops"):
            others = [other for other in self._manager.get_plugins() if other is not module]
            answers = self._manager.subset_hook_caller("surgery_register_ops", others)()
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
        if op.name in self._ops:
            raise PluginError(
                f"{plugin}: registers op `{op.name}`, so does {self._ops[op.name][1]}; rename one"
            )
        self._ops[op.name] = (op, plugin)

    def sampler(self, name: str) -> SamplerKind | None:
        """Return the sampler called `name`, loading its family; None if there is no such sampler."""
        found: SamplerKind | None = self._trial("sampler", name)
        return found

    def evaluator(self, name: str) -> EvaluatorKind | None:
        """Return the evaluator called `name`, loading its family; None if there is no such evaluator."""
        found: EvaluatorKind | None = self._trial("evaluator", name)
        return found

    def trial_names(self, what: str) -> list[str]:
        """Return the names of all samplers (`what` is `sampler`) or evaluators, for suggestions."""
        self.op_names()  # loads what can be loaded
        return sorted(name for kind, name in self._trials if kind == what)

    def _trial(self, what: str, name: str) -> Any:
        self.op(name)  # loads the family
        found = self._trials.get((what, name))
        return found[0] if found else None

    def _declared(self, plugin: Plugin, module: ModuleType, hook: str, kind: type[T]) -> list[T]:
        """Ask one plugin for its samplers or evaluators; a file given with --plugin may simply define them."""
        if not hasattr(module, hook):
            return [thing for thing in vars(module).values() if plugin.file and isinstance(thing, kind)]
        others = [other for other in self._manager.get_plugins() if other is not module]
        things = [thing for answer in self._manager.subset_hook_caller(hook, others)() for thing in answer]
        for thing in things:
            if not isinstance(thing, kind):
                raise PluginError(f"{plugin}: {hook} returned {thing!r}, not a {kind.__name__}")
        return things

    def _add_trial(self, what: str, thing: SamplerKind | EvaluatorKind, plugin: Plugin) -> None:
        family = thing.name.partition(".")[0]
        if plugin.file is None and family != plugin.name:
            raise PluginError(
                f"{plugin}: registers {what} `{thing.name}`, its names are `{plugin.name}.<method>`; rename it"
            )
        owner = self.families.get(family) if plugin.file is not None else None
        owner = owner or self._trials.get((what, thing.name), (None, None))[1]
        if owner is not None:
            raise PluginError(
                f"{plugin}: registers {what} `{thing.name}`, which belongs to {owner}; choose another name"
            )
        self._trials[what, thing.name] = (thing, plugin)

    def _gather(self, hook: str, kind: type[T]) -> list[tuple[T, Plugin]]:
        """Ask each loaded plugin for one kind of thing, in the order of the plugins' names."""
        self._load_always()
        found: list[tuple[T, Plugin]] = []
        for name in sorted(self._loaded):
            module = self._manager.get_plugin(name)
            others = [other for other in self._manager.get_plugins() if other is not module]
            for answer in self._manager.subset_hook_caller(hook, others)():
                for thing in answer:
                    if not isinstance(thing, kind):
                        raise PluginError(
                            f"{self._loaded[name]}: {hook} returned {thing!r}, not a {kind.__name__}"
                        )
                    found.append((thing, self._loaded[name]))
        return found

    def rewrite_plan(self, plan: Plan, check: Callable[[Plan, str], Plan]) -> Plan:
        """Let each plugin in turn change the plan; `check` holds every changed plan to what a run relies on."""
        self._load_always()
        for name in sorted(self._loaded):
            module = self._manager.get_plugin(name)
            others = [other for other in self._manager.get_plugins() if other is not module]
            for changed in self._manager.subset_hook_caller("surgery_rewrite_plan", others)(plan=plan):
                plan = check(changed, str(self._loaded[name]))
        return plan

    def read_foreign(self, documents: Sequence[Document], folder: Path) -> dict[str, Any] | Translated | None:
        """Offer documents without a `surgery:` key to the plugins that read other tools' recipes."""
        first = documents[0].data
        found: dict[str, Any] | Translated | None = self.hook.surgery_read_recipe(
            document=first, documents=tuple(documents), folder=folder
        )
        return found

    def unknown_op(self, name: str) -> str:
        """Return what to say of an op that does not exist."""
        family = name.partition(".")[0]
        if family in self._disabled:
            return f"unknown op `{name}`: the plugin `{family}` is disabled by {DISABLED}; unset it"
        return f"unknown op `{name}`{did_you_mean(name, self.op_names())}"


def _discover(group: str, disabled: set[str]) -> dict[str, Plugin]:
    """Return the entry points of a group by name, sorted: the order of discovery differs between machines."""
    found: dict[str, Plugin] = {}
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda e: (e.name, e.value)):
        origin, version = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")
        plugin = Plugin(entry.name, origin, version, entry=entry, always=group == ALWAYS)
        if entry.name in disabled:
            continue
        _refuse_another(found.get(entry.name), plugin)
        found[entry.name] = plugin
    return found


def _refuse_another(known: Plugin | None, plugin: Plugin) -> None:
    """Refuse a second plugin of a name that is taken."""
    if known and known.entry and plugin.entry and known.entry.value != plugin.entry.value:
        raise PluginError(
            f"two plugins are called `{plugin.name}`: {known} and {plugin}; "
            f"uninstall one or set {DISABLED}={plugin.name}"
        )


def owner_of(name: str) -> str | None:
    """Return the distribution that has a plugin called `name`, disabled or not; None if the name is free."""
    for group in (FAMILIES, ALWAYS):
        for entry in importlib.metadata.entry_points(group=group):
            if entry.name == name:
                return entry.dist.name if entry.dist else "another package"
    return None


def _refuse_twice(what: str, claims: list[tuple[str, Plugin]]) -> None:
    first: dict[str, Plugin] = {}
    for name, plugin in claims:
        if name in first:
            raise PluginError(
                f"{plugin}: claims {what} `{name}`, so does {first[name]}; disable one with {DISABLED}"
            )
        first[name] = plugin
