"""A model without weights, and what goes where: a checkpoint's tensors into its parameters, a block at a time."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import torch
from torch import nn

from surgery.calibrate.names import Place, Places
from surgery.checkpoint.sidecars import config_with_dtype, without_quantization
from surgery.errors import PlanError
from surgery.plan.nodes import Activations

OUTSIDE: Final = -1  # stands for what is in no block where blocks are counted 0, 1, 2, ...


class Skeleton:
    """A causal language model on the meta device: what a block needs is put in and taken out again.

    Its blocks are one ModuleList that runs in order; any other model is refused with a PlanError.
    """

    def __init__(self, calibration: Activations) -> None:
        self.step = calibration.step
        self.model = _build(self.step, calibration.config)
        self.prefix, self.blocks = self._find_blocks()
        self.places = Places(self.model, calibration.nodes)
        self._require_all()

    def block_of(self, target: str) -> int:
        """Return the block that a parameter is in, or OUTSIDE."""
        found = re.match(rf"{re.escape(self.prefix)}\.(\d+)\.", target)
        return int(found[1]) if found else OUTSIDE

    def targets(self, block: int) -> list[str]:
        """Return the parameters of a block, or of what is outside of all."""
        return [target for target in self.places.sources if self.block_of(target) == block]

    def fill(self, target: str, values: Mapping[str, torch.Tensor], device: torch.device) -> None:
        """Make a parameter of the tensors that belong into it, by their names in the checkpoint."""
        value = self.places.joined(target, values)
        held = self.places.parameters[target]
        if value.shape != held.shape:
            raise self.refusal(f"{target} is {tuple(value.shape)}, it expects {tuple(held.shape)}")
        self._put(target, value.to(device))

    def empty(self, targets: Collection[str]) -> None:
        """Take parameters out again."""
        for target in targets:
            held = self.places.parameters[target]
            self._put(target, torch.empty(held.shape, dtype=held.dtype, device="meta"))

    def parameter(self, target: str) -> torch.Tensor:
        """Return what is there now under a parameter's name."""
        path, _, leaf = target.rpartition(".")
        found: torch.Tensor = getattr(self.model.get_submodule(path), leaf)
        return found

    def move_buffers(self, device: torch.device) -> None:
        """Bring what the model has computed by itself, such as rotary frequencies, to a device."""
        for module in self.model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and not buffer.is_meta:
                    module._buffers[name] = buffer.to(device)

    def _put(self, target: str, value: torch.Tensor) -> None:
        for name in self.places.shared[target]:
            path, _, leaf = name.rpartition(".")
            owner = self.model.get_submodule(path)
            if leaf in owner._parameters:
                owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
            else:
                owner._buffers[leaf] = value

    def _find_blocks(self) -> tuple[str, nn.ModuleList]:
        """Return the name of the outermost list of blocks, and the list."""
        found = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.ModuleList) and any(True for _ in module.parameters())
        }
        outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
        if len(outer) != 1:
            raise self.refusal(f"has {len(outer)} lists of blocks ({', '.join(outer) or 'none'}), not one")
        return outer[0], found[outer[0]]

    def _require_all(self) -> None:
        lacking = [name for name in self.places.parameters if name not in self.places.sources]
        if lacking:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise self.refusal(f"needs {lacking[0]}{more}, which the step's input lacks")

    def place(self, member: str) -> Place:
        """Return where a tensor that the op changes is in the model. Raises PlanError if its inputs cannot be seen."""
        place = self.places.place(member)
        if place is None:
            raise self.refusal(f"has no parameter for {member}")
        owner = self.model.get_submodule(place.target.rpartition(".")[0])
        vector = self.places.parameters[place.target].dim() < 2
        if vector or type(owner).__name__ == "Conv1D" or isinstance(owner, nn.Embedding):
            what = f"{member} belongs to {type(owner).__name__} and is no Linear's weight"
            raise PlanError(f"step {self.step}: {what}; leave it out with `where:`")
        return place

    def refusal(self, what: str) -> PlanError:
        """Return the error that a model cannot be run block by block."""
        return PlanError(
            f"step {self.step}: {type(self.model).__name__} {what}; it cannot be calibrated block by block"
        )


def _build(step: str, written: Mapping[str, Any]) -> Any:
    """Return transformers' model of a config: parameters on the meta device, buffers as they are computed."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config  # carries no types
    kind = written["model_type"]
    settings = config_with_dtype(without_quantization(written), "float32")
    del settings["model_type"]
    try:
        config = AutoConfig.for_model(kind, **settings)
        config.use_cache = False
        config._experts_implementation = "eager"  # one call for each expert: its inputs can be seen
        with init_empty_weights(include_buffers=False):
            model = build(config, trust_remote_code=False)
    except Exception as error:  # whatever an odd config makes of it
        first = str(error).partition("\n")[0]
        raise PlanError(
            f"step {step}: transformers cannot build a causal language model of type `{kind}`: {first}; "
            "calibrated ops need one"
        ) from error
    model.tie_weights()  # outside of the context, which gives every parameter a tensor of its own
    return model.eval()
