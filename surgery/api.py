"""The Python API: load a recipe, resolve it into a plan, run it; or take its result as a lazy state dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.host import Host
from surgery.recipe.load import load_recipe, parse_recipe
from surgery.recipe.model import Recipe
from surgery.schedule.options import RunOptions

if TYPE_CHECKING:
    import torch

    from surgery.execute.models import Calibrate
    from surgery.execute.report import Listener, Report
    from surgery.plan.model import Plan
    from surgery.schedule.order import Schedule


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe that is well formed; its models have not been looked at."""

    recipe: Recipe
    host: Host

    def resolve(
        self, *, out: str | Path | None = None, force: bool = False, write: bool = True
    ) -> ResolvedPlan:
        """Return the checked plan, from headers alone. Raises PlanError with all findings at once.

        out    folder to write to, instead of the recipe's `to:`
        force  a finished output may be replaced
        write  False: nothing will be written, so destinations are not looked at
        """
        from surgery.plan.resolve import resolve

        folder = None if out is None else Path(out)
        return ResolvedPlan(resolve(self.recipe, self.host, out=folder, force=force, write=write), self.host)

    def run(
        self,
        options: RunOptions | None = None,
        *,
        out: str | Path | None = None,
        listener: Listener | None = None,
    ) -> Report:
        """Resolve and run; see `RunOptions` for memory, threads, device, resume and force."""
        options = options or RunOptions()
        return self.resolve(out=out, force=options.force).run(options, listener=listener)


@dataclass(frozen=True, slots=True)
class ResolvedPlan:
    """A plan that has passed every check that headers allow."""

    plan: Plan
    host: Host

    def order(self, options: RunOptions | None = None) -> Schedule:
        """Return what a run will do in which order, and the memory that it takes.

        Raises ResourceError if a job can never fit or a device is asked for that is not there.
        """
        from surgery.execute.run import ordered

        return ordered(self.plan, options or RunOptions())

    def run(
        self,
        options: RunOptions | None = None,
        *,
        listener: Listener | None = None,
        schedule: Schedule | None = None,
    ) -> Report:
        """Carry the plan out and return what happened.

        listener  is told of progress ten times a second
        schedule  what `order` returned for the same options, so that it is not made twice
        """
        from surgery.execute.run import run
        from surgery.report.record import leave

        calibrate = calibrator(self.plan)
        left = partial(leave, self.host)
        return run(self.plan, options or RunOptions(), self.host, listener, schedule, calibrate, leave=left)


def load(recipe: str | Path, *, plugins: Iterable[str | Path] = ()) -> LoadedRecipe:
    """Load a recipe from a YAML file. `plugins` are Python files with ops of your own.

    Raises RecipeError with all findings at once, PluginError when a plugin cannot be loaded.
    """
    host = Host(Path(file) for file in plugins)
    return LoadedRecipe(load_recipe(Path(recipe), foreign=host.read_foreign), host)


def loads(text: str, *, folder: str | Path = ".", plugins: Iterable[str | Path] = ()) -> LoadedRecipe:
    """Load a recipe from its text; paths in it are relative to `folder`."""
    host = Host(Path(file) for file in plugins)
    return LoadedRecipe(parse_recipe(text, folder=Path(folder), foreign=host.read_foreign), host)


def state_dict(recipe: str | Path | LoadedRecipe) -> Mapping[str, torch.Tensor]:
    """Return a recipe's result as a mapping from names to tensors; nothing is written.

    Each tensor is computed when it is asked for, in the dtype in which it would be stored; all of them at once are
    `dict(surgery.state_dict(recipe))`. A recipe with several outputs gives the first.
    """
    from surgery.execute.state_dict import LazyStateDict

    loaded = recipe if isinstance(recipe, LoadedRecipe) else load(recipe)
    plan = loaded.resolve(write=False).plan
    return LazyStateDict(plan, calibrator(plan))


def calibrator(plan: Plan) -> Calibrate | None:
    """Return what computes statistics of activations; None for a plan that needs none: it imports transformers.

    Raises PlanError when a model cannot be run on the calibration text.
    """
    from surgery.plan.calibration import calibrations_of

    if not calibrations_of(tensor.node for output in plan.outputs for tensor in output.tensors):
        return None

    from surgery.calibrate.runner import Calibrator

    return Calibrator(plan)
