from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.errors import CheckpointError, PlanError
from surgery_hf.adapters import PEFT, fold

Tensors = Mapping[str, torch.Tensor]
Write = Callable[..., Path]

BASE = {"m.q.weight": torch.zeros(2, 3), "m.q.bias": torch.zeros(2), "m.e.weight": torch.zeros(5, 2)}
A, B = torch.zeros(1, 3), torch.zeros(2, 1)
PAIR = {"m.q.lora_A.weight": A, "m.q.lora_B.weight": B}


def refused(folder: Path, base: Tensors = BASE, **rest: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        fold(folder, MemoryCheckpoint(base, **rest))
    return [str(finding).removeprefix(f"{folder}: base_model.model.") for finding in caught.value.findings]


def test_a_folder_with_a_config_is_an_adapter(adapter: Write, tmp_path: Path):
    folder = adapter(PAIR)
    assert PEFT.claims(folder)
    assert not PEFT.claims(tmp_path)
    assert not PEFT.claims(folder / "adapter_config.json")


def test_an_adapter_without_weights_says_so(adapter: Write):
    folder = adapter(PAIR)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        fold(folder, MemoryCheckpoint(BASE))
    told = "has adapter_config.json but no `adapter_model.safetensors`; save the adapter again"
    assert str(caught.value) == f"{folder}: {told}"


def test_an_adapter_that_fits_changes_only_what_it_names(adapter: Write):
    folded = fold(adapter(PAIR), MemoryCheckpoint(BASE))
    assert dict(folded.native) == {"m.q.weight": "F32"}
    assert list(folded.tensors) == list(BASE)


@pytest.mark.parametrize(
    ("tensors", "config", "problem"),
    [
        (
            {"m.k.lora_A.weight": A, "m.k.lora_B.weight": B},
            {},
            "m.k.lora_A.weight: the base has no such tensor; fold it into the base that it was trained on",
        ),
        (
            {**PAIR, "m.e.bias": torch.zeros(5)},
            {},
            "m.e.bias: the base has no such bias; fold it into the base that it was trained on",
        ),
        (
            {"m.q.lora_A.weight": A},
            {},
            "m.q.lora_A.weight: stands without its `lora_A.weight` and `lora_B.weight`; save the adapter again",
        ),
        (
            {"m.q.lora_B.bias": torch.zeros(2)},
            {},
            "m.q.lora_B.bias: stands without its `lora_A.weight` and `lora_B.weight`; save the adapter again",
        ),
        (
            {**PAIR, "m.q.lora_A.weight": torch.zeros(1, 4)},
            {},
            "m.q.lora_A.weight: factors (1, 4) and (2, 1) do not fit the base's (2, 3), read as [out, in]; "
            "fold it into the base that it was trained on",
        ),
        (
            PAIR,
            {"fan_in_fan_out": True},
            "m.q.lora_A.weight: factors (1, 3) and (2, 1) do not fit the base's (2, 3), read as "
            "[in, out] as `fan_in_fan_out` says; fold it into the base that it was trained on",
        ),
        (
            PAIR,
            {"r": 2},
            "m.q.lora_A.weight: factors have shapes (1, 3) and (2, 1), the config says rank 2; "
            "the config belongs to another adapter",
        ),
        (
            PAIR,
            {"use_dora": True},
            "m.q.lora_A.weight: has no `lora_magnitude_vector`, but the config says `use_dora: true`; "
            "save the adapter again",
        ),
        (
            {**PAIR, "m.q.lora_magnitude_vector": torch.zeros(2)},
            {},
            "m.q.lora_A.weight: has a `lora_magnitude_vector`, but the config says no DoRA; save the adapter again",
        ),
        (
            {**PAIR, "m.q.lora_magnitude_vector": torch.zeros(3)},
            {"use_dora": True},
            "m.q.lora_magnitude_vector: has shape (3,) for 2 rows; save the adapter again",
        ),
        (
            {"m.e.weight": torch.zeros(6, 2)},
            {},
            "m.e.weight: is to replace m.e.weight, got shapes (6, 2) and (5, 2); fold into its base",
        ),
        (
            {**PAIR, "m.q.lora_B.bias": torch.zeros(3)},
            {},
            "m.q.lora_B.bias: has shape (3,), the base's bias (2,); fold into its base",
        ),
        (
            {**PAIR, "m.q.lora_C.weight": A},
            {},
            "m.q.lora_C.weight: is not a name that peft gives; only what is understood is folded",
        ),
        (
            {"m.e.weight": torch.zeros(5, 2, dtype=torch.int8)},
            {},
            "m.e.weight: is stored as I8; adapters are folded from floats",
        ),
    ],
)
def test_what_does_not_fit_is_refused(adapter: Write, tensors: Tensors, config: dict[str, Any], problem: str):
    assert refused(adapter(tensors, **config)) == [problem]


def test_a_quantized_base_must_be_dequantized_first(adapter: Write):
    base = {**BASE, "m.q.weight": torch.zeros(2, 3, dtype=torch.uint8)}
    assert refused(adapter(PAIR), base) == [
        "m.q.lora_A.weight: the base stores m.q.weight as U8, a fold is defined on floats only; "
        "dequantize the base first"
    ]


def test_the_same_finding_about_many_tensors_is_one_line(adapter: Write):
    pairs = {f"m.l.{i}.lora_{part}.weight": {"A": A, "B": B}[part] for i in range(3) for part in "AB"}
    tensors = {**pairs, "m.q.lora_C.weight": A}
    assert refused(adapter(tensors)) == [
        "m.q.lora_C.weight: is not a name that peft gives; only what is understood is folded",
        "m.l.0.lora_A.weight: the base has no such tensor (and 2 more such tensors); "
        "fold it into the base that it was trained on",
    ]


@pytest.mark.parametrize("named", ["lm_head", "model.embed_tokens"])
def test_one_name_of_a_tied_tensor_is_not_changed_alone(adapter: Write, named: str):
    base = {"model.embed_tokens.weight": torch.zeros(5, 2)}
    folder = adapter({f"{named}.weight": torch.zeros(5, 2)})
    other = ({"lm_head", "model.embed_tokens"} - {named}).pop()
    assert refused(folder, base, config={"tie_word_embeddings": True}) == [
        f"{named}.weight: changes {named}.weight, which is one tensor with {other}.weight; "
        "save the base with the two apart first"
    ]
    assert fold(adapter({"model.embed_tokens.weight": torch.zeros(5, 2)}), MemoryCheckpoint(base, config={}))


def test_an_aliased_tensor_is_not_changed_under_one_name(adapter: Write):
    shared = torch.zeros(2, 3)
    assert refused(adapter(PAIR), {"m.q.weight": shared, "m.r.weight": shared}) == [
        "m.q.lora_A.weight: changes m.q.weight, which is one tensor with m.r.weight; "
        "save the base with the two apart first"
    ]


@pytest.mark.parametrize(("theirs", "ours"), [("transformer.h.q", "h.q"), ("h.q", "transformer.h.q")])
def test_a_base_saved_without_its_head_may_lack_the_first_name(adapter: Write, theirs: str, ours: str):
    pair = {f"{theirs}.lora_A.weight": A, f"{theirs}.lora_B.weight": B}
    assert list(fold(adapter(pair), MemoryCheckpoint({f"{ours}.weight": torch.zeros(2, 3)})).native) == [
        f"{ours}.weight"
    ]
