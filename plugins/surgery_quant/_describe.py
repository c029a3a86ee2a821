"""The `quantization_config` of compressed-tensors: what was quantized and how, and which Linears were not."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from surgery.errors import PlanError
from surgery.ops import Description, Made
from surgery.targets import CONV1D
from surgery_quant._scheme import Scheme, weights_args

Place = tuple[str, int] | None  # stack and layer

# Embeddings are no Linears; those of patches may be.
_LOOKED_UP: Final = frozenset({"embed", "embed.position", "embed.type"})
_NO_PARTS: Final = frozenset({"quantization_config", "compression_config", "generation_config"})

_MATRIX: Final = 2
# Engines put these side by side into one matrix, and then all of them must be quantized alike.
_FUSED: Final = (("attention.q", "attention.k", "attention.v"), ("mlp.gate", "mlp.up"))


def describe(made: Made, p: Scheme) -> Description:
    """Return config.json with the `quantization_config` of what was made. Raises PlanError for what no engine loads."""
    if not made.changed:
        raise PlanError("quantizes nothing: no Linear of a block is left; see `keep` and `where`")
    if made.config.get("model_type") in CONV1D:
        what = f"weights of `{made.config['model_type']}` are [in, out] (Conv1D)"
        raise PlanError(f"{what}, no engine loads them quantized; quantize models whose layers are Linears")
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
    return Description({**made.config, "quantization_config": quantization}, relation="quantized")


# Inputs are rounded by the engine, one scale for each token.
_TOKENS: Final = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


def _ignored(made: Made) -> list[str]:
    """Return the modules that stay in 16 bit but may be Linears; a tied head has no tensor but is a module.

    Inside of models of several parts, and where a head has another name, transformers' modules are not called what
    files call them: its names end alike, or are `lm_head`.
    """
    kept = [info for info in made.kept.values() if len(info.spec.shape) >= _MATRIX]
    kept = [info for info in kept if info.role.kind not in _LOOKED_UP]
    names = {name.removesuffix(".weight") for name in [*(info.name for info in kept), *made.tied]}
    parts = any(key.endswith("_config") and key not in _NO_PARTS for key in made.config)
    ends = {rf"re:(?:.+\.)?{re.escape(name)}$" for name in names} if parts else set()
    return sorted(names | ends | {"lm_head"})


def _require_whole(made: Made) -> None:
    """Refuse a model in which some of what engines fuse is quantized and the rest is not."""
    changed = _by_layer((s.role.place, s.role.expert, s.role.kind) for s in made.changed.values())
    kept = _by_layer(
        (i.role.place, i.role.expert, i.role.kind) for i in made.kept.values() if len(i.spec.shape) == _MATRIX
    )
    for (place, expert), kinds in sorted(changed.items(), key=str):
        for fused in _FUSED:
            done, left = kinds & set(fused), kept[place, expert] & set(fused)
            if place and done and left:
                names = f"{', '.join(sorted(done))} quantized and {', '.join(sorted(left))} not"
                raise PlanError(
                    f"layer {place[1]} has {names}, engines fuse them; name all of them or none in `keep` and `where`"
                )


def _by_layer(
    roles: Iterable[tuple[Place, int | None, str]],
) -> dict[tuple[Place, int | None], set[str]]:
    found: dict[tuple[Place, int | None], set[str]] = defaultdict(set)
    for place, expert, kind in roles:
        found[place, expert].add(kind)
    return found
