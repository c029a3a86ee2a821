"""LoCon's kernels between two factors: multiplied into one of them, by hand and as LyCORIS' own formula has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import surgery
from surgery.checkpoint.open import open_checkpoint
from surgery.errors import CheckpointError
from surgery_hf.kohya import kohya_factors

C = "lora_unet_down_0_conv"


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(into: int = 5, rank: int = 2, out: int = 4, kernel: int = 3) -> dict[str, torch.Tensor]:
    return {
        f"{C}.lora_down.weight": normal(rank, into, 1, 1, seed=1),
        f"{C}.lora_mid.weight": normal(rank, rank, kernel, kernel, seed=2),
        f"{C}.lora_up.weight": normal(out, rank, 1, 1, seed=3),
    }


def opened(folder: Path, tensors: dict[str, torch.Tensor]):
    save_file(tensors, folder / "style.safetensors")
    return kohya_factors(open_checkpoint("style.safetensors", folder))


def read(view, name: str) -> torch.Tensor:
    spec = view.tensors[name]
    raw = bytearray(spec.nbytes)
    view.read_into(name, 0, memoryview(raw))
    return torch.frombuffer(raw, dtype=torch.float32).view(spec.shape)


def test_a_kernel_by_hand(tmp_path: Path):
    """Rank one, a kernel of [[1, 2], [3, 4]] and a factor of 5 and 6: five and six times the kernel."""
    made = {
        f"{C}.lora_down.weight": torch.tensor([5.0, 6]).view(1, 2, 1, 1),
        f"{C}.lora_mid.weight": torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2),
        f"{C}.lora_up.weight": torch.ones(1, 1, 1, 1),
    }
    view = opened(tmp_path, made)
    assert set(view.tensors) == {f"{C}.lora_down.weight", f"{C}.lora_up.weight"}
    assert read(view, f"{C}.lora_down.weight").tolist() == [[[[5, 10], [15, 20]], [[6, 12], [18, 24]]]]
    assert view.extent(f"{C}.lora_down.weight") is None
    assert view.extent(f"{C}.lora_up.weight") is not None


def test_the_product_of_two_factors_is_that_of_three(tmp_path: Path):
    """LyCORIS' rebuild: t[i, j, ...]·up[p, i]·down[j, r], whose scale is alpha over the rank."""
    made = factors()
    view = opened(tmp_path, made | {f"{C}.alpha": torch.tensor(3.0)})
    down, mid, up = (made[f"{C}.lora_{which}.weight"].double() for which in ("down", "mid", "up"))
    expected = 1.5 * torch.einsum("ij...,pi,jr->pr...", mid, up.flatten(1), down.flatten(1))
    A, B = (read(view, f"{C}.lora_{which}.weight").double() for which in ("down", "up"))
    assert A.shape == (2, 5, 3, 3)
    found = torch.einsum("pi,iryx->pryx", B.flatten(1), A)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_any_range_has_the_bytes_of_the_whole(tmp_path: Path):
    view = opened(tmp_path, factors())
    whole = read(view, f"{C}.lora_down.weight").view(-1)
    part = bytearray(4 * 7)
    view.read_into(f"{C}.lora_down.weight", 4 * 20, memoryview(part))
    assert torch.equal(torch.frombuffer(part, dtype=torch.float32), whole[20:27])


def test_another_kernel_is_another_identity(tmp_path: Path):
    name = f"{C}.lora_down.weight"
    first = opened(tmp_path, factors()).identity(name)
    (tmp_path / "again").mkdir()
    other = factors() | {f"{C}.lora_mid.weight": normal(2, 2, 3, 3, seed=9)}
    assert opened(tmp_path / "again", other).identity(name) != first


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (
            {f"{C}.lora_mid.weight": torch.ones(2, 3, 3, 3)},
            f"{C}.lora_mid.weight: a kernel of shape (2, 3, 3, 3) does not fit a factor of shape (2, 5, 1, 1)",
        ),
        (
            {f"{C}.lora_down.weight": torch.ones(2, 5, 3, 3)},
            f"{C}.lora_mid.weight: a kernel of shape (2, 2, 3, 3) does not fit a factor of shape (2, 5, 3, 3)",
        ),
        ({"x.lora_mid.weight": torch.ones(2, 2, 3, 3)}, "x.lora_mid.weight: stands without its factors"),
    ],
)
def test_a_kernel_that_does_not_fit_is_refused(tmp_path: Path, extra: dict[str, torch.Tensor], told: str):
    with pytest.raises(CheckpointError) as error:
        opened(tmp_path, factors() | extra)
    assert f"{told}; read it with `decode: false` to see what is stored" in str(error.value)


def test_it_becomes_an_adapter_that_peft_reads(tmp_path: Path):
    made = factors()
    save_file(made, tmp_path / "style.safetensors")
    (tmp_path / "base").mkdir()
    save_file({"down.0.conv.weight": torch.zeros(4, 5, 3, 3)}, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    text = (
        "surgery: 1\nmodels: {style: ./style.safetensors, base: ./base}\n"
        "steps:\n  lora: {op: adapter.convert, model: style, base: base, to: peft}\n"
        "output: {model: lora, to: ./lora}\n"
    )
    surgery.loads(text, folder=tmp_path).run(surgery.RunOptions(device="cpu"))
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["r"] == 2
    folded = "surgery: 1\nmodels: {m: {source: ./base, adapter: ./lora}}\noutput: {model: m, to: ./out}\n"
    surgery.loads(folded, folder=tmp_path).run(surgery.RunOptions(device="cpu"))
    found = load_file(tmp_path / "out" / "model.safetensors")["down.0.conv.weight"]
    down, mid, up = (made[f"{C}.lora_{which}.weight"] for which in ("down", "mid", "up"))
    expected = torch.einsum("ij...,pi,jr->pr...", mid, up.flatten(1), down.flatten(1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
