"""What the stages ask plugins for: ops by name, architectures, formats, sources, changes to a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery import hookspecs
from surgery.architecture import Architecture
from surgery.errors import CheckpointError, PluginError, did_you_mean
from surgery.host.discovery import DISABLED, Plugin
from surgery.host.registry import Registry
from surgery.ops import Op
from surgery.trials import EvaluatorKind, SamplerKind

if TYPE_CHECKING:
    from types import ModuleType

    from surgery.checkpoint.base import AdapterFormat, Checkpoint, Format, Scheme
    from surgery.checkpoint.base_publisher import Destination
    from surgery.plan.model import Plan
    from surgery.recipe.document import Document
    from surgery.recipe.foreign import Translated


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a plugin that is loaded adds: its module, its hooks in the order in which they fire, its ops by name."""

    module: ModuleType
    hooks: tuple[str, ...]
    ops: tuple[Op, ...]


class Host:
    """Finds plugins, loads them when they are needed, and asks them."""

    def __init__(self, files: Iterable[Path] = ()) -> None:
        self._registry = Registry()
        self.families, self.always = self._registry.families, self._registry.always
        self.files = self._registry.files
        for file in files:
            self._registry.load_file(file)

    @property
    def hook(self) -> Any:
        """Return pluggy's callers of the plugins loaded so far, those asked in every run among them."""
        self._registry.load_always()
        return self._registry.manager.hook

    def op(self, name: str) -> Op | None:
        """Return the op called `name`, loading its family; None if there is no such op."""
        family = name.partition(".")[0]
        if family in self.families:
            self._registry.load(self.families[family])
        found = self._registry.ops.get(name)
        return found[0] if found else None

    def plugin_of(self, name: str) -> Plugin:
        """Return the plugin that registered the op `name`."""
        return self._registry.ops[name][1]

    def ops(self) -> dict[str, Op]:
        """Load every family and return all ops by name, sorted."""
        for plugin in self.families.values():
            self._registry.load(plugin)
        return {name: self._registry.ops[name][0] for name in sorted(self._registry.ops)}

    def op_names(self) -> list[str]:
        """Return what ops there are, for suggestions: families that fail to load are left out."""
        for plugin in self.families.values():
            try:
                self._registry.load(plugin)
            except PluginError:
                continue
        return sorted(self._registry.ops)

    def unknown_op(self, name: str) -> str:
        """Return what to say of an op that does not exist."""
        family = name.partition(".")[0]
        if family in self._registry.disabled:
            return f"unknown op `{name}`: the plugin `{family}` is disabled by {DISABLED}; unset it"
        return f"unknown op `{name}`{did_you_mean(name, self.op_names())}"

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
        return sorted(name for kind, name in self._registry.trials if kind == what)

    def _trial(self, what: str, name: str) -> Any:
        self.op(name)  # loads the family
        found = self._registry.trials.get((what, name))
        return found[0] if found else None

    def architectures(self) -> list[Architecture]:
        """Return what the plugins know of model types; two claims on one model type are an error."""
        found = self._registry.gather("surgery_register_architectures", Architecture)
        _refuse_twice("model type", [(kind, plugin) for a, plugin in found for kind in a.model_types])
        return [architecture for architecture, _ in found]

    def formats(self) -> list[Format]:
        """Return the checkpoint formats that plugins read."""
        from surgery.checkpoint.base import Format

        found = self._registry.gather("surgery_register_formats", Format)
        _refuse_twice("format", [(format_.name, plugin) for format_, plugin in found])
        return [format_ for format_, _ in found]

    def destinations(self) -> list[Destination]:
        """Return the places that plugins publish outputs to."""
        from surgery.checkpoint.base_publisher import Destination

        found = self._registry.gather("surgery_register_destinations", Destination)
        _refuse_twice("destination", [(destination.name, plugin) for destination, plugin in found])
        return [destination for destination, _ in found]

    def adapters(self) -> list[AdapterFormat]:
        """Return the adapter formats that plugins fold into a base."""
        from surgery.checkpoint.base import AdapterFormat

        found = self._registry.gather("surgery_register_adapters", AdapterFormat)
        _refuse_twice("adapter format", [(format_.name, plugin) for format_, plugin in found])
        return [format_ for format_, _ in found]

    def schemes(self) -> list[Scheme]:
        """Return the URI schemes that plugins open."""
        from surgery.checkpoint.base import Scheme

        found = self._registry.gather("surgery_register_sources", Scheme)
        _refuse_twice("scheme", [(scheme.name, plugin) for scheme, plugin in found])
        return [scheme for scheme, _ in found]

    def decoded(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the view that the first plugin has of a checkpoint whose tensors are coded, else the checkpoint.

        Raises CheckpointError, the checkpoint closed, when a plugin says that its codes cannot be decoded.
        """
        from surgery.checkpoint.base import Checkpoint

        hook = "surgery_decode_checkpoint"
        for plugin, ask in self._registry.each(hook):
            try:
                found = ask(checkpoint=checkpoint)
            except CheckpointError:
                checkpoint.close()
                raise
            if isinstance(found, Checkpoint):
                return found
            if found is not None:
                raise PluginError(f"{plugin}: {hook} returned {found!r}, not a Checkpoint")
        return checkpoint

    def rewrite_plan(self, plan: Plan, check: Callable[[Plan, str], Plan]) -> Plan:
        """Let each plugin in turn change the plan; `check` holds every changed plan to what a run relies on."""
        for plugin, ask in self._registry.each("surgery_rewrite_plan"):
            for changed in ask(plan=plan):
                plan = check(changed, str(plugin))
        return plan

    def read_foreign(self, documents: Sequence[Document], folder: Path) -> dict[str, Any] | Translated | None:
        """Offer documents without a `surgery:` key to the plugins that read other tools' recipes."""
        first = documents[0].data
        found: dict[str, Any] | Translated | None = self.hook.surgery_read_recipe(
            document=first, documents=tuple(documents), folder=folder
        )
        return found

    def load(self, plugin: Plugin) -> Loaded:
        """Load one of `families`, `always` or `files`, nothing else, and return what it adds.

        Raises PluginError if it does not import or breaks the contract.
        """
        self._registry.load(plugin)
        manager, ops = self._registry.manager, self._registry.ops
        module = manager.get_plugin(plugin.name)
        assert module is not None
        implemented = {caller.name for caller in manager.get_hookcallers(module) or []}
        hooks = tuple(name for name in vars(hookspecs) if name in implemented)
        return Loaded(
            module, hooks, tuple(ops[name][0] for name in sorted(ops) if ops[name][1].name == plugin.name)
        )


def _refuse_twice(what: str, claims: list[tuple[str, Plugin]]) -> None:
    first: dict[str, Plugin] = {}
    for name, plugin in claims:
        if name in first:
            raise PluginError(
                f"{plugin}: claims {what} `{name}`, so does {first[name]}; disable one with {DISABLED}"
            )
        first[name] = plugin
