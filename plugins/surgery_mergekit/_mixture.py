"""A document for mergekit-moe becomes a step with `stitch.moe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from surgery.errors import RecipeError, did_you_mean
from surgery.recipe.document import Document, KeyPath, shown
from surgery.recipe.foreign import Translated
from surgery_mergekit._reading import Reading
from surgery_mergekit._references import Models, Reference, reference
from surgery_mergekit._settings import dtype_of

RESULT: Final = "merged"

_KEYS: Final = (
    *("base_model", "experts", "gate_mode", "dtype", "experts_per_token", "shared_experts", "architecture"),
)
_EXPERT: Final = ("source_model", "positive_prompts", "negative_prompts", "noise_scale", "residual_scale")
_LAYOUTS: Final = {
    "Mixtral": "mixtral",
    "DeepSeek MoE": "deepseek",
    "Qwen MoE": "qwen2_moe",
    "Qwen3 MoE": "qwen3_moe",
}
_GATES: Final = {
    "hidden": "hidden",
    "hidden_last": "hidden",
    "hidden_avg": "hidden_avg",
    "cheap_embed": "cheap_embed",
    "random": "random",
    "uniform_random": "uniform_random",
}


def is_mixture(data: Mapping[str, Any]) -> bool:
    """Return whether a document is one for mergekit-moe."""
    return "experts" in data and "base_model" in data and "merge_method" not in data


def translate_mixture(documents: Sequence[Document], folder: Path) -> Translated:
    """Return the recipe that a document for mergekit-moe makes. Raises RecipeError with all findings."""
    reading = Reading(documents[0], folder)
    data = reading.mapping(documents[0].data, (), _KEYS)
    if len(documents) > 1:
        reading.refuse((), "a document for mergekit-moe and others in one file; give each a file of its own")
    models = Models({RESULT})
    base = reference(reading, data.get("base_model"), ("base_model",))
    experts = _experts(reading, data, "experts", models)
    shared = _experts(reading, data, "shared_experts", models) if data.get("shared_experts") else []
    if len(shared) > 1:
        reading.refuse(("shared_experts",), f"at most one shared expert, got {len(shared)}; keep one")
    step = {
        "op": "stitch.moe",
        "gate": _gate(reading, data),
        "experts_per_token": data.get("experts_per_token", 2),
        "experts": experts,
        **({"shared_expert": shared[0]} if shared else {}),
        **_layout(reading, data, shared),
    }
    stored = dtype_of(reading, data, "dtype")
    if reading.problems or base is None:
        raise RecipeError(reading.found(reading.problems))
    return _recipe(reading, models, base, step, stored)


def _recipe(
    reading: Reading, models: Models, base: Reference, step: dict[str, Any], stored: str | None
) -> Translated:
    named = models.name(base, None)
    used = dict.fromkeys(each["model"] for each in (*step["experts"], *_shared(step)))
    others = [name for name in used if name != named] or [named]
    entries = {
        name: entry["source"] if list(entry) == ["source"] else entry
        for name, entry in models.entries.items()
    }
    output = {"model": RESULT, **({"dtype": stored} if stored else {})}
    return Translated(
        {
            "surgery": 1,
            "models": entries,
            "steps": {RESULT: {"op": step.pop("op"), "base": named, "models": others, **step}},
            "output": output,
        },
        places={
            ("steps", RESULT): reading.place(("experts",)),
            ("steps", RESULT, "gate"): reading.place(("gate_mode",)),
            ("steps", RESULT, "experts_per_token"): reading.place(("experts_per_token",)),
            **{
                ("steps", RESULT, "experts", i): reading.place(("experts", i))
                for i in range(len(step["experts"]))
            },
        },
        warnings=tuple(reading.found(reading.warnings)),
        report=tuple(_report(step)),
        comments=_comments(reading),
    )


def _shared(step: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [step["shared_expert"]] if "shared_expert" in step else []


def _experts(reading: Reading, data: Mapping[str, Any], key: str, models: Models) -> list[dict[str, Any]]:
    """Return experts as `stitch.moe` takes them; what is wrong with their numbers and prompts it says itself."""
    made = []
    for i, raw in enumerate(reading.listed(data[key], (key,), "experts")):
        entry = reading.mapping(raw, (key, i), _EXPERT)
        if not entry:
            continue
        model = reference(reading, entry.get("source_model"), (key, i, "source_model"))
        given = {name: entry[name] for name in _EXPERT[1:] if entry.get(name) is not None}
        if model is not None:
            made.append({"model": models.name(model, None), **given})
    return made


def _gate(reading: Reading, data: Mapping[str, Any]) -> str:
    gate = data.get("gate_mode", "hidden")
    if not isinstance(gate, str) or gate not in _GATES:
        near = did_you_mean(gate, _GATES) if isinstance(gate, str) else ""
        reading.refuse(("gate_mode",), f"unknown gate mode, got {shown(gate)}{near}")
        return ""
    return _GATES[gate]


def _layout(reading: Reading, data: Mapping[str, Any], shared: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the layout that a document means; nothing where it follows from the models."""
    wanted = data.get("architecture")
    if wanted is None:
        if shared and not shared[0].get("positive_prompts"):
            what = "mergekit makes of a shared expert without prompts what the models allow"
            reading.refuse(
                ("shared_experts",), f"{what}; write `architecture: deepseek` or `architecture: qwen`"
            )
        return {"layout": "qwen2_moe"} if shared else {}
    found = [name for name in _LAYOUTS if isinstance(wanted, str) and name.lower().startswith(wanted.lower())]
    if not found:
        near = did_you_mean(wanted, _LAYOUTS) if isinstance(wanted, str) else ""
        reading.refuse(("architecture",), f"unknown architecture, got {shown(wanted)}{near}")
        return {}
    if len(found) > 1 and not shared:
        found = found[1:]  # of both Qwens only the third makes do without a shared expert
    return {"layout": _LAYOUTS[found[0]]}


def _report(step: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each thing that the document means otherwise here."""
    said = []
    experts = [*step["experts"], *_shared(step)]
    if step["gate"] in ("hidden", "hidden_avg"):
        said.append(
            "Hidden states are float32 and without padding; mergekit's are bfloat16, and its means count padding."
        )
    if step["gate"] in ("random", "uniform_random") or any(each.get("noise_scale") for each in experts):
        said.append(
            "Random routers and noise are other numbers than mergekit's; ours depend on the seed alone."
        )
    if step.get("layout", "mixtral") == "mixtral":
        said.append("A sliding window of Mistral is kept, where mergekit turns it off.")
    else:
        said.append("A model with a sliding window is refused, where mergekit turns it off.")
    return said


def _comments(reading: Reading) -> dict[KeyPath, str]:
    defaults = {"gate_mode": "gate", "experts_per_token": "experts_per_token"}
    return {
        ("steps", RESULT, ours): "mergekit's default"
        for theirs, ours in defaults.items()
        if theirs not in reading.document.data
    }
