"""Where the statistics of a step's op come from: the recipe's calibration text and the step's input model."""

from __future__ import annotations

import xxhash

from surgery.plan.nodes import Calibration
from surgery.plan.problems import Problems
from surgery.plan.virtual import VirtualModel
from surgery.recipe.resolve_ops import ResolvedStep


def calibration_of(step: ResolvedStep, model: VirtualModel, problems: Problems) -> Calibration | None:
    """Return the calibration of a step on its input model; None after noting what is missing."""
    recipe, path = problems.recipe, ("steps", step.name)
    settings = recipe.calibration
    if settings is None:
        what = f"`{step.op.name}` looks at activations, the recipe has no calibration text"
        problems.add(path, f"{what}; add `calibration: {{text: FILE}}`")
        return None
    texts = []
    for name in settings.files:
        file = recipe.folder / name
        try:
            texts.append((file, xxhash.xxh3_128(file.read_bytes()).digest()))
        except OSError as error:
            what = f"{name} cannot be read: {error.strerror}; name a text file"
            problems.add(("calibration", "text"), what)
            return None
    return Calibration(
        step=step.name,
        settings=settings,
        texts=tuple(file for file, _ in texts),
        text_digest=b"".join(digest for _, digest in texts),
        config=model.config,
        sidecars=model.donor.sidecars,
        nodes=model.nodes,
    )
