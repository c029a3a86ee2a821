"""Adapters that are read as models of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.checkpoint.open import open_checkpoint
from surgery.errors import CheckpointError
from surgery.ops import Space
from surgery_hf import surgery_decode_checkpoint
from tests.plugins.hf.conftest import PEFT, read

Write = Callable[..., Path]
A, B = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0], [10.0]])
PAIR = {"q.lora_A.weight": A, "q.lora_B.weight": B}


def opened(folder: Path) -> Checkpoint | None:
    return surgery_decode_checkpoint(open_checkpoint(str(folder), folder))


def view(folder: Path) -> Checkpoint:
    found = opened(folder)
    assert found is not None
    return found


def test_the_scale_is_in_b(adapter: Write):
    found = view(adapter(PAIR))  # alpha 2, rank 1
    assert found.space is Space.FACTORS
    assert read(found, f"{PEFT}q.lora_A.weight").tolist() == [[1, 2, 3]]
    assert read(found, f"{PEFT}q.lora_B.weight").tolist() == [[2], [20]]


def test_the_config_says_that_the_scale_is_one(adapter: Write):
    tensors = PAIR | {"v.lora_A.weight": torch.ones(4, 3), "v.lora_B.weight": torch.ones(2, 4)}
    found = view(adapter(tensors, rank_pattern={"v": 4}, alpha_pattern={"q": 3}, use_rslora=True))
    assert read(found, f"{PEFT}q.lora_B.weight").tolist() == [[3], [30]]
    assert read(found, f"{PEFT}v.lora_B.weight").tolist() == [[1] * 4] * 2  # 2/√4
    said = found.config
    assert (said["lora_alpha"], said["alpha_pattern"], said["use_rslora"]) == (1, {"v": 4}, False)
    assert found.description is not None
    assert (found.description.config_file, found.description.stem) == ("adapter_config.json", "adapter_model")


def test_a_scaled_factor_is_float32_and_written_in_its_own_dtype(adapter: Write):
    found = view(adapter({name: tensor.bfloat16() for name, tensor in PAIR.items()}))
    assert {found.tensors[f"{PEFT}q.lora_{side}.weight"].dtype for side in "AB"} == {"BF16", "F32"}
    assert dict(found.native) == {f"{PEFT}q.lora_B.weight": "BF16"}


def test_an_adapter_is_published_as_it_was_folded(adapter: Write, tmp_path: Path):
    """A copy of an adapter, scale applied, folds into its base as the adapter did."""
    import surgery
    from surgery_hf.adapters import fold

    folder = adapter(PAIR)
    recipe = {"surgery": 1, "models": {"a": "./adapter"}, "output": {"model": "a", "to": "./out"}}
    surgery.loads(json.dumps(recipe), folder=tmp_path).resolve().run(surgery.RunOptions(device="cpu"))
    base = MemoryCheckpoint({"q.weight": torch.zeros(2, 3)})
    first, again = (read(fold(path, base), "q.weight") for path in (folder, tmp_path / "out"))
    assert torch.equal(first, again)
    assert first.tolist() == [[2, 4, 6], [20, 40, 60]]


def test_what_is_no_lora_adapter_is_left_as_it_is(adapter: Write, tmp_path: Path):
    folder = adapter({"q.ia3_l": torch.ones(2, 1)}, peft_type="IA3")
    assert opened(folder) is None
    folder = adapter(PAIR)
    (folder / "adapter_config.json").unlink()
    assert opened(folder) is None
    assert surgery_decode_checkpoint(MemoryCheckpoint({"q.lora_A.weight": A})) is None


@pytest.mark.parametrize(
    ("tensors", "config", "told"),
    [
        (
            PAIR | {"q.lora_magnitude_vector": torch.ones(2)},
            {"use_dora": True},
            [
                "`use_dora` scales rows of the sum, which is no product of two factors",
                f"{PEFT}q.lora_magnitude_vector: is no factor",
            ],
        ),
        (PAIR | {"head.weight": torch.ones(2, 2)}, {}, [f"{PEFT}head.weight: is no factor"]),
        (PAIR | {"q.lora_B.bias": torch.ones(2)}, {}, [f"{PEFT}q.lora_B.bias: is no factor"]),
        ({"q.lora_A.weight": A}, {}, [f"{PEFT}q.lora_A.weight: stands without its other factor"]),
        (PAIR | {"q.lora_C.weight": A}, {}, [f"{PEFT}q.lora_C.weight is not a name that peft gives"]),
        (PAIR, {"r": 2}, [f"{PEFT}q.lora_A.weight: factors of shapes (1, 3) and (2, 1) are not of rank 2"]),
        (
            PAIR | {"q.lora_A.weight": A.to(torch.int8)},
            {},
            [f"{PEFT}q.lora_A.weight: is stored as I8, no float"],
        ),
    ],
)
def test_more_than_products_of_two_factors_is_refused(
    adapter: Write, tensors: Any, config: dict[str, Any], told: list[str]
):
    folder = adapter(tensors, **config)
    with pytest.raises(CheckpointError) as caught:
        opened(folder)
    advice = "read it with `decode: false` to see what is stored"
    assert str(caught.value).splitlines() == [f"{folder}: {what}; {advice}" for what in told]


def test_what_cannot_be_folded_has_no_factors_either(adapter: Write):
    folder = adapter(PAIR, init_lora_weights="pissa")
    with pytest.raises(CheckpointError) as caught:
        opened(folder)
    first, last = str(caught.value).splitlines()
    assert first.startswith(f"{folder}/adapter_config.json: `init_lora_weights`: `pissa` changes the base")
    assert last == f"{folder}: holds no plain factors; read it with `decode: false` to see what is stored"
