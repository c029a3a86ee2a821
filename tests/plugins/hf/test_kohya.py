"""Files of kohya's scripts as factors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from surgery.checkpoint.open import open_checkpoint
from surgery.errors import CheckpointError
from surgery.ops import Space
from surgery_hf.kohya import is_kohya, kohya_factors

Q = "lora_te_layers_0_q_proj"


def opened(folder: Path, tensors: dict[str, torch.Tensor]):
    save_file(tensors, folder / "style.safetensors")
    return open_checkpoint("style.safetensors", folder)


def pair(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    down, up = torch.arange(6.0).view(2, 3), torch.arange(8.0).view(4, 2) / 3
    return {f"{Q}.lora_down.weight": down.to(dtype), f"{Q}.lora_up.weight": up.to(dtype)}


def read(view, name: str) -> torch.Tensor:
    spec = view.tensors[name]
    raw = bytearray(spec.nbytes)
    view.read_into(name, 0, memoryview(raw))
    return torch.frombuffer(raw, dtype=torch.float32).view(spec.shape)


def test_alpha_is_applied_to_the_factor_up_and_is_gone(tmp_path: Path):
    made = pair() | {f"{Q}.alpha": torch.tensor(3.0)}
    view = kohya_factors(opened(tmp_path, made))
    assert set(view.tensors) == set(pair())
    assert view.space is Space.FACTORS
    assert torch.equal(read(view, f"{Q}.lora_up.weight"), 1.5 * made[f"{Q}.lora_up.weight"])
    assert torch.equal(read(view, f"{Q}.lora_down.weight"), made[f"{Q}.lora_down.weight"])


def test_without_alpha_the_scale_is_one(tmp_path: Path):
    view = kohya_factors(opened(tmp_path, pair()))
    assert torch.equal(read(view, f"{Q}.lora_up.weight"), pair()[f"{Q}.lora_up.weight"])
    assert view.extent(f"{Q}.lora_up.weight") is not None  # copied as bytes


def test_half_precision_is_written_as_half_precision(tmp_path: Path):
    made = pair(torch.float16) | {f"{Q}.alpha": torch.tensor(2.0, dtype=torch.float16)}
    view = kohya_factors(opened(tmp_path, made))
    assert view.native[f"{Q}.lora_up.weight"] == "F16"
    assert torch.equal(read(view, f"{Q}.lora_up.weight"), made[f"{Q}.lora_up.weight"].float())


def test_another_alpha_is_another_identity(tmp_path: Path):
    found = []
    for alpha in (1.0, 2.0):
        view = kohya_factors(opened(tmp_path, pair() | {f"{Q}.alpha": torch.tensor(alpha)}))
        found.append(view.identity(f"{Q}.lora_up.weight"))
        view.close()
    assert found[0] != found[1]


def test_other_checkpoints_are_not_taken_for_it(tmp_path: Path):
    assert not is_kohya(opened(tmp_path, {"model.q.weight": torch.ones(2, 2)}))


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({f"{Q}.dora_scale": torch.ones(4)}, f"{Q}.dora_scale: is no factor of a LoRA"),
        ({"lora_te_k.lora_up.weight": torch.ones(4, 2)}, "stands without its other factor"),
        ({"lora_te_k.alpha": torch.tensor(1.0)}, "lora_te_k.alpha: stands without its factors"),
        ({f"{Q}.alpha": torch.ones(2)}, f"{Q}.alpha: is a tensor of shape (2,), no number"),
        (
            {"lora_te_k.lora_down.weight": torch.ones(3, 4), "lora_te_k.lora_up.weight": torch.ones(4, 2)},
            "lora_te_k.lora_down.weight: factors of shapes (3, 4) and (4, 2) have no product",
        ),
        (
            {f"{Q}.lora_down.weight": torch.ones(2, 3, dtype=torch.int8)},
            f"{Q}.lora_down.weight: is stored as I8, no float",
        ),
    ],
)
def test_what_is_no_plain_pair_is_refused(tmp_path: Path, extra: dict[str, torch.Tensor], told: str):
    with pytest.raises(CheckpointError) as caught:
        kohya_factors(opened(tmp_path, pair() | extra))
    assert f"{told}; read it with `decode: false` to see what is stored" in str(caught.value)
