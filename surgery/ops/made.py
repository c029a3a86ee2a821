"""What becomes of a model: the tensors that one is stored as, and how the result describes itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from surgery.ops.signature import Signature
from surgery.tensors import TensorInfo, TensorSpec

# What the Hub calls `base_model_relation`.
Relation = Literal["adapter", "merge", "quantized", "finetune"]


@dataclass(frozen=True, slots=True)
class Part:
    """One of several tensors that an op makes of one: its spec as it is stored, under its full name.

    `rows` is how many of the input's rows one row of it is made of (the last may be made of fewer); 0 if it does not
    depend on rows and is returned with the first ones only.
    """

    spec: TensorSpec
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Made:
    """What a step made of a model, for ops that describe their result.

    `changed` maps the tensors that the op works on, by the names they have in its input, to what is known of them;
    `kept` are those that were copied. `source` is where the base, or the first model, came from, as the user wrote it.
    `tied` maps tensors that are not stored to those that they share their values with.
    """

    config: Mapping[str, Any]
    source: str
    changed: Mapping[str, Signature]
    kept: Mapping[str, TensorInfo]
    tied: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Description:
    """How a model is packed: its config and the names of its files; `sidecars`: whether a tokenizer belongs to it.

    `relation` is what it is to the models that it was made of and `library` what loads it, in the Hub's words; left
    out, they follow from its config and from how many models these are.
    """

    config: Mapping[str, Any]
    config_file: str = "config.json"
    stem: str = "model"
    sidecars: bool = True
    relation: Relation | None = None
    library: str | None = None
