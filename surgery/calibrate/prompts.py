"""A model reads prompts, block by block: what enters its blocks, as ops that layouts call need it.

    embed every prompt
    for every block:  note what the states before it are, if a call looks there     -> statistics
                      fill it with tensors as the plan computes them, run all prompts through it, take them out

Prompts are short and of different lengths: each is run by itself, without padding, and its states stay in memory.
One worker in one thread runs a prompt, so that the number of workers does not change a bit. The model runs in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from surgery.calibrate.blocks import Blocks
from surgery.calibrate.filling import Filling
from surgery.calibrate.skeleton import Skeleton
from surgery.errors import OpError
from surgery.execute.evaluate import Evaluator
from surgery.execute.models import Site, Statistics
from surgery.execute.needs import Phases
from surgery.ops import Need
from surgery.plan.nodes import PromptRun
from surgery.schedule.calibrations import cost_of


class Reader:
    """Lets a model read prompts up to the last layer that somebody looks at."""

    def __init__(self, run: PromptRun, skeleton: Skeleton, found: Mapping[int, Any], site: Site) -> None:
        self._run, self._skeleton, self._site = run, skeleton, site
        self._device = site.here.device
        self._cost = cost_of(run)
        self._filling = Filling(skeleton, run, dict(found), site, self._cost.besides)
        self._prompts = [torch.tensor(prompt, device=self._device) for prompt in run.prompts]
        self._blocks = {len(prompt): Blocks(skeleton) for prompt in run.prompts}

    def run(self) -> Statistics:
        """Return the states before the layers that are looked at, by the tensor that needs them, then by `Need`.

        Raises OpError if they are not finite, PlanError for a model that cannot be run block by block.
        """
        statistics: dict[str, Mapping[str, torch.Tensor]] = {}
        states = self._embedded()
        last = max(self._run.layers.values())
        for layer in range(last + 1):
            self._site.tell(f"{self._run.step}: prompts before layer {layer + 1} of {last + 1}")
            looking = [name for name, at in self._run.layers.items() if at == layer]
            if looking:
                statistics |= dict.fromkeys(looking, self._seen(layer, states))
            if layer < last:
                with self._filling.filled(layer):
                    self._through(layer, states)
        return statistics

    def _embedded(self) -> list[torch.Tensor]:
        """Return what the first block is given for each prompt; learn how blocks are called for each length."""
        self._skeleton.move_buffers(self._device)
        with torch.no_grad(), self._filling.filled_on_use():
            for ids in self._prompts:
                blocks = self._blocks[len(ids)]
                if blocks.calls:
                    blocks.require_same(ids)
                else:
                    blocks.learn(ids)
            states = []
            for ids in self._prompts:
                blocks = self._blocks[len(ids)]
                with blocks.embedding():
                    states.append(blocks.embed(ids))
            return states

    def _seen(self, layer: int, states: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the last state and the mean of the states of every prompt, float64 [prompts, hidden]."""
        last = torch.stack([state[-1].double() for state in states]).cpu()
        mean = torch.stack([state.double().mean(0) for state in states]).cpu()
        if not bool(torch.isfinite(mean).all()):
            raise OpError(
                f"step {self._run.step}: what enters layer {layer} on the prompts is not finite; check the model"
            )
        return {Need.LAST: last, Need.MEAN: mean}

    def _through(self, layer: int, states: list[torch.Tensor]) -> None:
        """Replace each prompt's states by what a block makes of them."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # what was put in is there for the workers' streams

        def begin(prompt: int) -> Phases:
            def unit(evaluator: Evaluator) -> None:
                before = states[prompt]
                states[prompt] = self._blocks[len(before)].run(layer, before)
                evaluator.place.finish()

            return iter([[unit]])

        jobs: list[tuple[Callable[[], Phases], int]] = [
            (partial(begin, prompt), self._cost.sample) for prompt in range(len(states))
        ]
        self._site.crew.run(jobs, self._cost.besides)
