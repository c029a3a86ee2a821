"""The `quantization_config` of compressed-tensors: what was quantized and how, and which Linears were not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from surgery.errors import PlanError
from surgery.ops import Description, Made
from surgery.tensors import TensorInfo
from surgery_quant._scheme import Scheme, weights_args

_MATRIX: Final = 2
# Engines put these side by side into one matrix, and then all of them must be quantized alike.
_FUSED: Final = (("attention.q", "attention.k", "attention.v"), ("mlp.gate", "mlp.up"))


def describe(made: Made, p: Scheme) -> Description:
    """Return config.json with the `quantization_config` of what was made. Raises PlanError for what no engine loads."""
    if not made.changed:
        raise PlanError("quantizes nothing: no Linear of a block is left; see `keep` and `where`")
    _require_whole(made)
    group: dict[str, Any] = {
        "targets": ["Linear"],
        "weights": weights_args(p),
        "input_activations": None if p.packed else _TOKENS,
        "output_activations": None,
    }
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if p.packed else "int-quantized",
        "quantization_status": "compressed",
        "ignore": _ignored(made),
        "config_groups": {"group_0": group},
    }
    return Description({**made.config, "quantization_config": quantization})


# Inputs are rounded by the engine, one scale for each token.
_TOKENS: Final = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


def _ignored(made: Made) -> list[str]:
    """Return the modules that stay in 16 bit but may be Linears; a tied head has no tensor but is a module."""
    kept = [info for info in made.kept.values() if len(info.spec.shape) >= _MATRIX and _part(info) != "embed"]
    names = {info.name.removesuffix(".weight") for info in kept}
    if not any(_part(info) == "head" for info in kept):
        names.add("lm_head")
    return sorted(names)


def _part(info: TensorInfo) -> str:
    return info.role.kind.partition(".")[0]


def _require_whole(made: Made) -> None:
    """Refuse a model in which some of what engines fuse is quantized and the rest is not."""
    changed = _by_layer((s.role.layer, s.role.expert, s.role.kind) for s in made.changed.values())
    kept = _by_layer(
        (i.role.layer, i.role.expert, i.role.kind) for i in made.kept.values() if len(i.spec.shape) == _MATRIX
    )
    for layer, kinds in sorted(changed.items(), key=str):
        for fused in _FUSED:
            done, left = kinds & set(fused), kept[layer] & set(fused)
            if done and left:
                names = f"{', '.join(sorted(done))} quantized and {', '.join(sorted(left))} not"
                raise PlanError(
                    f"layer {layer[0]} has {names}, engines fuse them; name all of them or none in `keep` and `where`"
                )


def _by_layer(
    roles: Iterable[tuple[int | None, int | None, str]],
) -> dict[tuple[int | None, int | None], set[str]]:
    found: dict[tuple[int | None, int | None], set[str]] = defaultdict(set)
    for layer, expert, kind in roles:
        found[layer, expert].add(kind)
    return found
