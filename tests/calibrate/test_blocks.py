"""Calling blocks one by one is what the model itself does."""

from __future__ import annotations

import pytest
import torch

from surgery import PlanError
from surgery.calibrate.blocks import Blocks
from surgery.calibrate.skeleton import OUTSIDE, Skeleton

CPU = torch.device("cpu")
IDS = torch.randint(3, 1000, (2, 24), generator=torch.Generator().manual_seed(0))


def filled(model) -> Skeleton:
    skeleton = Skeleton(model.known)
    for part in [OUTSIDE, *range(len(skeleton.blocks))]:
        for target in skeleton.targets(part):
            skeleton.fill(target, model.tensors, CPU)
    return skeleton


@torch.no_grad()
@pytest.mark.parametrize(
    "kind", ["llama", "tied", "qwen2", "qwen3", "mistral", "gemma2", "falcon", "gpt2", "mixtral"]
)
def test_blocks_called_one_by_one_give_the_models_own_logits(models, kind):
    model = models(kind)
    skeleton = filled(model)
    blocks = Blocks(skeleton)
    blocks.learn(IDS[0])
    blocks.require_same(IDS[1])
    for ids in IDS:
        with blocks.embedding():
            hidden = blocks.embed(ids)
        for index in range(len(skeleton.blocks)):
            hidden = blocks.run(index, hidden)
        with blocks.standing_in():
            logits = blocks.finish(ids, hidden).logits
        expected = model.whole(ids[None], use_cache=False).logits
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_layers_of_one_model_may_be_called_differently(models):
    blocks = Blocks(filled(models("gemma2")))  # every other layer sees a window
    blocks.learn(IDS[0])
    masks = [call.kwargs["attention_mask"] for call in blocks.calls]
    assert not torch.equal(masks[0], masks[1])


@torch.no_grad()
def test_a_model_whose_blocks_hand_on_more_is_refused(models):
    blocks = Blocks(filled(models("rwkv")))
    with pytest.raises(PlanError) as error:
        blocks.learn(IDS[0])
    assert str(error.value).startswith(
        "step x: RwkvForCausalLM fails between blocks: not enough values to unpack"
    )
    assert str(error.value).endswith("; it cannot be calibrated block by block")


class Residual(torch.nn.Module):
    """A model that adds something between its blocks, and tells them how long the text is."""

    def __init__(self, added: float, told: bool) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(2))
        self.added, self.told = added, told

    def forward(self, input_ids, use_cache):
        hidden = torch.ones(*input_ids.shape, 4)
        for layer in self.layers:
            hidden = layer(hidden, ids=input_ids if self.told else None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            hidden = hidden + self.added if self.added else hidden
        return hidden


class Bare(Skeleton):
    """A skeleton of any module."""

    def __init__(self, model) -> None:
        self.step, self.model, self.blocks = "x", model, model.layers


def test_a_model_that_adds_something_between_blocks_is_refused():
    with pytest.raises(PlanError) as error:
        Blocks(Bare(Residual(1.0, told=False))).learn(IDS[0])
    said = "step x: Residual does not hand on from block to block what they return"
    assert str(error.value) == f"{said}; it cannot be calibrated block by block"


def test_a_model_that_tells_its_blocks_of_the_text_is_refused():
    blocks = Blocks(Bare(Residual(0.0, told=True)))
    blocks.learn(IDS[0])
    blocks.require_same(IDS[0])
    with pytest.raises(
        PlanError, match=r"step x: Residual gives block 0 more than hidden states of the text;"
    ):
        blocks.require_same(IDS[1])
