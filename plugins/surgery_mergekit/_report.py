"""The migration report: where our numbers are not mergekit's, and why."""

from __future__ import annotations

from collections.abc import Iterator

from surgery_mergekit._modules import ASSEMBLE, Steps, has_ramp
from surgery_mergekit._settings import Settings

_INVERSE = {
    "dare_linear": "1/density",
    "dare_ties": "1/density",
    "della": "1/p of each element",
    "della_linear": "1/p of each element",
}


def report(settings: Settings, steps: Steps) -> Iterator[str]:
    """Yield a sentence for each thing that a document means otherwise here."""
    params = [made.step for made in steps.made.values() if made.step["op"] == settings.method.op]
    if not settings.compat:
        if any(has_ramp(step) for step in params):
            yield (
                "Ramps end at the final norm and the head, which mergekit gives the value of the embeddings; "
                "with `compat: mergekit` so do we."
            )
        if settings.word in _INVERSE and any(step.get("rescale") == "inverse" for step in params):
            yield (
                f"`rescale: true` of {settings.word} multiplies survivors by {_INVERSE[settings.word]}, as the paper "
                "does; mergekit restores the sum of magnitudes, and so does `compat: mergekit`."
            )
    if settings.word.startswith(("dare", "della")):
        yield "Random masks are other ones than mergekit's; ours depend on the seed, the tensor and the element alone."
    if settings.dtype and settings.dtype != "float32" and settings.word != "passthrough":
        yield (
            f"Inputs are rounded to {settings.dtype} as in mergekit, but computed with in float32 and rounded once: "
            "compare with mergekit's `dtype: float32`."
        )
    if settings.word == "model_stock":
        yield "The interpolation factor is not clamped to [0, 1], as in mergekit; `clamp: true` would."
    if any(made.step["op"] == ASSEMBLE for made in steps.made.values()):
        yield f"Tensors of modules that are not named are those of `{steps.donor}`; mergekit does not write them."
    if settings.template == "llama3":
        yield "`chat_template: llama3` is Meta's format; mergekit's has a line break behind each `<|eot_id|>`."
    if settings.vocabulary is not None and settings.vocabulary.multiple is None:
        yield "Rows that pad a vocabulary are kept, where mergekit cuts them off."
