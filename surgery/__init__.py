"""model-surgery: make new models out of old weights. One recipe, one streamed pass, bounded memory."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker

if TYPE_CHECKING:
    from surgery.api import LoadedRecipe, ResolvedPlan, load, loads, state_dict
    from surgery.errors import (
        CheckpointError,
        OpError,
        PlanError,
        PluginError,
        RecipeError,
        ResourceError,
        SurgeryError,
    )
    from surgery.layout import Call, Layout, Reading, Stack, Take
    from surgery.ops import (
        BASE,
        Chunk,
        Companion,
        Description,
        Group,
        Made,
        Need,
        Params,
        Part,
        Reduce,
        Scan,
        Space,
        Split,
        layout_op,
        op,
        ops_in,
    )
    from surgery.scalars import Scalar, Share
    from surgery.schedule.options import RunOptions
    from surgery.trials import (
        Evaluator,
        Gene,
        Resident,
        Sampler,
        Subject,
        evaluator,
        evaluators_in,
        sampler,
        samplers_in,
    )

__version__ = "0.1.0"

hookimpl = HookimplMarker("surgery")

# Names are imported when they are first used, so that `import surgery` costs nothing and needs no torch.
_HOMES = {
    "surgery.api": ("LoadedRecipe", "ResolvedPlan", "load", "loads", "state_dict"),
    "surgery.errors": (
        "CheckpointError",
        "OpError",
        "PlanError",
        "PluginError",
        "RecipeError",
        "ResourceError",
        "SurgeryError",
    ),
    "surgery.layout": ("Call", "Layout", "Reading", "Stack", "Take"),
    "surgery.ops": (
        "BASE",
        "Chunk",
        "Companion",
        "Description",
        "Group",
        "Made",
        "Need",
        "Params",
        "Part",
        "Reduce",
        "Scan",
        "Space",
        "Split",
        "layout_op",
        "op",
        "ops_in",
    ),
    "surgery.scalars": ("Scalar", "Share"),
    "surgery.schedule.options": ("RunOptions",),
    "surgery.trials": (
        "Evaluator",
        "Gene",
        "Resident",
        "Sampler",
        "Subject",
        "evaluator",
        "evaluators_in",
        "sampler",
        "samplers_in",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BASE",
    "Call",
    "CheckpointError",
    "Chunk",
    "Companion",
    "Description",
    "Evaluator",
    "Gene",
    "Group",
    "Layout",
    "LoadedRecipe",
    "Made",
    "Need",
    "OpError",
    "Params",
    "Part",
    "PlanError",
    "PluginError",
    "Reading",
    "RecipeError",
    "Reduce",
    "Resident",
    "ResolvedPlan",
    "ResourceError",
    "RunOptions",
    "Sampler",
    "Scalar",
    "Scan",
    "Share",
    "Space",
    "Split",
    "Stack",
    "Subject",
    "SurgeryError",
    "Take",
    "__version__",
    "evaluator",
    "evaluators_in",
    "hookimpl",
    "layout_op",
    "load",
    "loads",
    "op",
    "ops_in",
    "sampler",
    "samplers_in",
    "state_dict",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'surgery' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
