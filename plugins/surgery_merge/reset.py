"""merge.reset: give a share of a model's tensors back what they were before training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal

import xxhash
from pydantic import Field

from surgery.errors import Finding, PlanError
from surgery.ops import Layout, ModelView, Params, Take, layout_op
from surgery.tensors import TensorInfo

Granularity = Literal["tensor", "category", "layer"]

_BITS: Final = 53  # of a draw: what a float holds, so that a draw over 2^53 is below 1


class Reset(Params):
    """Parameters of merge.reset."""

    fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of the tensors that are given back; the paper's Half Fine-Tuning has a half."""

    granularity: Granularity = "category"
    """What the share is a share of: the tensors of each category (attention, mlp, norm, ...) of each layer, as in the
    paper; the tensors of the model, wherever they lie (`tensor`); or its layers, each given back whole (`layer`)."""

    seed: int = Field(default=0, ge=0)
    """Another seed chooses other tensors."""


@layout_op(
    "merge.reset",
    params=Reset,
    base="required",
    models=1,
    cite="Hui et al. 2024, HFT: Half Fine-Tuning for Large Language Models, arXiv:2404.18466",
)
def reset(models: Mapping[str, ModelView], p: Reset) -> Layout:
    """Take a fraction of the tensors from the base and all others from the model; no arithmetic, no bytes change.

    Every tensor is one of the two, byte by byte. What is chosen depends on the seed and the tensors' names alone. Of n
    tensors that belong together ⌊f·n⌋ or ⌈f·n⌉ are given back, drawn so that the share is right on average; a larger
    fraction gives back the same ones and more. Tensors outside layers are categories, or layers, of their own. The
    report says where each tensor came from, for a trainer that freezes either kind.
    config.json and tokenizer are the model's. Raises PlanError where tensors or shapes differ.
    """
    views = list(models.values())
    base, tuned = views[0], views[-1]  # one, if the model is its own base
    _check(base, tuned)
    given_back = _chosen(tuned, p)
    taken = {name: Take((base if name in given_back else tuned).name, name) for name in tuned.tensors}
    return Layout(taken, tuned.config, donor=tuned.name)


def _check(base: ModelView, tuned: ModelView) -> None:
    """Raise PlanError with all tensors that one model lacks or that differ in shape."""
    findings = []
    for name in {**base.tensors, **tuned.tensors}:
        before, after = _info(base, name), _info(tuned, name)
        if before is None or after is None:
            lacks, has = (base, tuned) if before is None else (tuned, base)
            what = f"tensor {name} is missing in `{lacks.name}`, `{has.name}` has it"
            findings.append(Finding(f"{what}; give a model and the base that it was trained from"))
        elif before.spec.shape != after.spec.shape:
            what = f"`{base.name}` and `{tuned.name}` differ at {name}: {before.spec.shape} and {after.spec.shape}"
            findings.append(Finding(f"{what}; give a model and the base that it was trained from"))
    if findings:
        raise PlanError(findings)


def _info(model: ModelView, name: str) -> TensorInfo | None:
    """Return what a tensor is that the model stores or ties to one that it stores."""
    return model.tensors.get(name) or model.tensors.get(model.tied.get(name, ""))


def _chosen(model: ModelView, p: Reset) -> set[str]:
    """Return the tensors that are given back."""
    units: dict[str, dict[str, list[str]]] = {}  # what belongs together -> units -> names of tensors
    several = len({info.role.stack for info in model.tensors.values() if info.role.layer is not None}) > 1
    for name, info in model.tensors.items():
        together, unit = _unit(info, p.granularity, several)
        units.setdefault(together, {}).setdefault(unit, []).append(name)
    chosen: set[str] = set()
    for together, named in units.items():
        # rounds up with a probability of what is left over, so that three tensors give back 1.5 on average
        many = math.floor(p.fraction * len(named) + _draw(p.seed, "many", together) / (1 << _BITS))
        order = sorted(named, key=lambda unit: (_draw(p.seed, "order", unit), unit))
        chosen.update(name for unit in order[:many] for name in named[unit])
    return chosen


def _unit(info: TensorInfo, granularity: Granularity, several: bool) -> tuple[str, str]:
    """Return what a tensor is counted with, and what it is given back with; `several`: there are several stacks."""
    category, layer = info.role.kind.partition(".")[0], _layer(info, several)
    if granularity == "tensor":
        return "model", info.name
    if granularity == "layer":
        return "model", f"layer {layer}" if layer else info.name
    return f"{category} of layer {layer}" if layer else info.name, info.name


def _layer(info: TensorInfo, several: bool) -> str:
    """Return the tensor's layer as text, with its stack if there are others; empty outside the layers."""
    role = info.role
    return "" if role.layer is None else f"{role.layer} of {role.stack}" if several else str(role.layer)


def _draw(seed: int, *what: str) -> int:
    """Return a number below 2^53, the same on every machine."""
    return xxhash.xxh3_64(repr((seed, *what)).encode()).intdigest() >> (64 - _BITS)
