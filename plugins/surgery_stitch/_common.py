"""One way to build a model out of picked layers; every op of this family only picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from surgery.errors import PlanError, did_you_mean
from surgery.ops import Layout, ModelView, Take
from surgery_stitch._config import Pick, layer_count, rewrite
from surgery_stitch._settings import check_settings, check_shapes, text_part
from surgery_stitch._slices import Range

Tied = Literal["refuse", "embed"]


def only(models: Mapping[str, ModelView]) -> ModelView:
    """Return the one model of an op that takes one."""
    (view,) = models.values()
    return view


def named(models: Mapping[str, ModelView], name: str) -> ModelView:
    """Return a model of the step by name; raise PlanError if the step has no such model."""
    if name not in models:
        raise PlanError(f"`{name}` is none of the step's models{did_you_mean(name, models)}")
    return models[name]


def picked(view: ModelView, layers: Range) -> list[Pick]:
    """Return the layers of a model that a range means."""
    return [(view.name, layer) for layer in layers.within(layer_count(view), view.name)]


def build(
    models: Mapping[str, ModelView],
    picks: Sequence[Pick],
    embed: ModelView,
    head: ModelView,
    tied: Tied = "refuse",
) -> Layout:
    """Return the model whose layers are `picks`, in this order.

    `embed` gives what stands outside the layers (embeddings, config.json, towers), `head` the final norm and
    the head. Raises PlanError when models do not fit together or config.json cannot say what comes out.
    """
    if not picks:
        raise PlanError("no layer is left; keep at least one")
    used = [models[name] for name in dict.fromkeys([embed.name, *(name for name, _ in picks), head.name])]
    for view in used:
        layer_count(view)
    check_settings(used)
    check_shapes(used)
    config = rewrite({view.name: view for view in used}, picks, donor=embed)
    tensors = {name: Take(embed.name, name) for name in embed.tensors if _is_before(embed, name)}
    members = {view.name: _by_layer(view) for view in used}
    for new, (model, layer) in enumerate(picks):
        view = models[model]
        tensors |= {view.rename_layer(name, new): Take(model, name) for name in members[model].get(layer, ())}
    _append_prediction(tensors, head, members[head.name], len(picks))
    tensors |= {name: Take(head.name, name) for name in head.tensors if _is_head(head, name)}
    if embed is not head and not (tied == "embed" and _ties(embed) and _ties(head)):
        _settle_tie(tensors, config, embed, head)
    return Layout(tensors, config, donor=embed.name)


def _is_head(view: ModelView, name: str) -> bool:
    role = view.tensors[name].role
    return role.layer is None and (role.kind == "norm.final" or role.kind.partition(".")[0] == "head")


def _is_before(view: ModelView, name: str) -> bool:
    """Return whether a tensor is neither in a layer nor behind the last one."""
    return view.tensors[name].role.layer is None and not _is_head(view, name)


def _by_layer(view: ModelView) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name, tensor in view.tensors.items():
        if tensor.role.layer is not None:
            found.setdefault(tensor.role.layer, []).append(name)
    return found


def _append_prediction(
    tensors: dict[str, Take], view: ModelView, members: dict[int, list[str]], count: int
) -> None:
    """Renumber the multi-token-prediction blocks that DeepSeek-style files keep behind the last layer."""
    last = layer_count(view)
    for layer in sorted(layer for layer in members if layer >= last):
        new = count + layer - last
        tensors |= {view.rename_layer(name, new): Take(view.name, name) for name in members[layer]}


def _settle_tie(
    tensors: dict[str, Take], config: dict[str, object], embed: ModelView, head: ModelView
) -> None:
    """Let the embeddings of one model live with the head of another: untied, and of one vocabulary."""
    if _ties(embed) and _ties(head):
        raise PlanError(
            f"`{embed.name}` and `{head.name}` both tie their head to their embeddings, so the embeddings of "
            "one cannot go with the head of the other; set `embed` and `head` to the same model, or `tied: embed`"
        )
    own, theirs = _matrix(embed, "embed"), _matrix(head, "embed")
    if own is not None and theirs is not None:
        rows, other = (view.tensors[n].spec.shape[0] for view, n in ((embed, own), (head, theirs)))
        if rows != other:
            raise PlanError(
                f"`{embed.name}` and `{head.name}` have vocabularies of {rows} and {other} tokens; "
                "set `embed` and `head` to the same model"
            )
    alias = _matrix(embed, "head")
    if _ties(head) and theirs is not None and alias is not None:
        tensors[alias] = Take(head.name, theirs)
    if _ties(embed) or _ties(head):
        config["tie_word_embeddings"] = False
        nested = text_part(config)
        if isinstance(nested, dict) and "tie_word_embeddings" in nested:
            nested["tie_word_embeddings"] = False


def _ties(view: ModelView) -> bool:
    """Return whether a causal language model stores no head of its own."""
    said = view.config.get("tie_word_embeddings", text_part(view.config).get("tie_word_embeddings"))
    classes = view.config.get("architectures") or ()
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in classes)
    return _matrix(view, "head") is None and (said is True or (said is None and causal))


def _matrix(view: ModelView, kind: str) -> str | None:
    """Return the name of the model's embedding or head matrix."""
    matrices = (name for name, tensor in view.tensors.items() if len(tensor.spec.shape) == 2)
    return next((name for name in matrices if view.tensors[name].role.kind == kind), None)
