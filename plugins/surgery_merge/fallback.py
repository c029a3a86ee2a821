"""merge.fallback: every tensor from the first model that has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.errors import Finding, PlanError
from surgery.ops import Layout, ModelView, NoParams, Take, layout_op
from surgery.tensors import TensorInfo


@layout_op(
    "merge.fallback",
    models=(2, None),
    cite="Goddard et al. 2024, Arcee's MergeKit: A Toolkit for Merging Large Language Models, arXiv:2403.13257 "
    "(models with tensors missing)",
)
def fallback(models: Mapping[str, ModelView], p: NoParams) -> Layout:
    """Take each tensor from the first model that has it, byte by byte: the order of `models:` decides.

    Completes a model that lacks parts, such as a head, a vision tower or layers that were not trained. config.json and
    tokenizer are the first model's, so what it has no place for is refused: layers behind its last. What it ties, such
    as a head to its embeddings, is not taken from others. Raises PlanError for these and where shapes differ.
    """
    views = list(models.values())
    first, *others = views
    taken = {name: Take(first.name, name) for name in first.tensors}
    findings: list[Finding] = []
    for view in others:
        for name, info in view.tensors.items():
            if name in taken:
                findings += _differs(models[taken[name].model], view, name)
            elif not _is_tied(first, name, info):
                taken[name] = Take(view.name, name)
    findings += _beyond(first, others)
    if findings:
        raise PlanError(findings)
    return Layout(taken, first.config, donor=first.name)


def _differs(a: ModelView, b: ModelView, name: str) -> list[Finding]:
    one, other = a.tensors[name].spec.shape, b.tensors[name].spec.shape
    if one == other:
        return []
    return [
        Finding(f"`{a.name}` and `{b.name}` differ at {name}: {one} and {other}; give models of one size")
    ]


def _is_tied(model: ModelView, name: str, info: TensorInfo) -> bool:
    """Return whether the model has a tensor though it does not store it, such as a head that is its embeddings."""
    return name in model.tied or (
        info.role.kind == "head" and bool(_setting(model, "tie_word_embeddings", False))
    )


def _beyond(first: ModelView, others: Sequence[ModelView]) -> list[Finding]:
    """Return which models have more layers than the first model's config has."""
    layers = _setting(first, "num_hidden_layers", first.layers)
    if not isinstance(layers, int) or layers == 0:
        return []
    return [
        Finding(
            f"`{view.name}` has {view.layers} layers and `{first.name}` {layers}; "
            f"name `{view.name}` first, or cut it with stitch.layers"
        )
        for view in others
        if view.layers > layers
    ]


def _setting(model: ModelView, key: str, default: Any) -> Any:
    """Return a setting of the language model, whose config is nested in a multimodal one."""
    text = model.config.get("text_config")
    return {**model.config, **(text if isinstance(text, Mapping) else {})}.get(key, default)
