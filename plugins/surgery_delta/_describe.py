"""delta_config.json: how the tensors of a delta are coded, and what they are changes of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.checkpoint.origin import base_name
from surgery.errors import PlanError
from surgery.ops import Description, Made
from surgery_delta._stored import CONFIG, FORMAT, STEM, Delta, is_coded, parameters


def describe(made: Made, p: Delta) -> Description:
    """Return the config and file names of a delta. Raises PlanError if nothing is coded."""
    if not any(is_coded(signature, p) for signature in made.changed.values()):
        raise PlanError("codes nothing: no matrix is left; see `targets` and `where`")
    config = {
        "delta_format": FORMAT,
        "codec": p.codec,
        "parameters": parameters(p),
        "base": p.base_model or base_name(made.source),
        "base_config": {
            key: made.config[key] for key in ("model_type", "architectures") if made.config.get(key)
        },
    }
    return as_delta(config)


def as_delta(config: Mapping[str, Any]) -> Description:
    """Return how a delta is packed: it is nothing without its base, which is what the Hub calls an adapter."""
    return Description(config, config_file=CONFIG, stem=STEM, sidecars=False, relation="adapter")
