"""The mixtures of experts that dense models become: what they are made of, and what they call their tensors.

Names are those in files: transformers renames and fuses them while loading, and takes it back when it saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from surgery.errors import PlanError

FamilyName = Literal["mixtral", "qwen2_moe", "qwen3_moe", "deepseek"]

# The matrices of a dense gated MLP, in the order of the layer: gate and up [I, D], down [D, I].
MATRICES: Final = ("gate_proj", "up_proj", "down_proj")

_LAYER: Final = ("input_layernorm.weight", "post_attention_layernorm.weight")
_ATTENTION: Final = tuple(f"self_attn.{part}_proj.weight" for part in "qkvo")
QKV_BIASES: Final = tuple(f"self_attn.{part}_proj.bias" for part in "qkv")


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of mixture. `settings` are what its config.json says whatever it is made of."""

    name: FamilyName
    architecture: str
    made_of: tuple[str, ...]
    block: str  # the module in the place of `mlp`
    matrices: tuple[str, str, str]  # what an expert calls its gate, up and down
    counts: str  # the key of config.json that says how many experts there are
    settings: Mapping[str, Any]
    shared: tuple[int, int] = (0, 0)  # how many shared experts there may be
    shared_block: str = ""
    shared_router: str = ""  # what decides how much of the shared expert is added; nothing: all of it is
    extra: tuple[str, ...] = ()  # tensors that a layer may have beside the usual ones
    biases: bool = False  # whether queries, keys and values always have them

    @property
    def kept(self) -> frozenset[str]:
        """Return the tensors of a layer that the base gives, named from the layer on."""
        return frozenset((*_LAYER, *_ATTENTION, *self.extra))


_QWEN: Final = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
_DEEPSEEK: Final = {
    "norm_topk_prob": True,
    "scoring_func": "softmax",
    "first_k_dense_replace": 0,
    "moe_layer_freq": 1,
    # no release of transformers knows this model type: what reads the config looks for its code there
    "auto_map": {
        "AutoConfig": "deepseek-ai/deepseek-moe-16b-base--configuration_deepseek.DeepseekConfig",
        "AutoModel": "deepseek-ai/deepseek-moe-16b-base--modeling_deepseek.DeepseekModel",
        "AutoModelForCausalLM": "deepseek-ai/deepseek-moe-16b-base--modeling_deepseek.DeepseekForCausalLM",
    },
}

FAMILIES: Final = {
    family.name: family
    for family in (
        Family(
            name="mixtral",
            architecture="MixtralForCausalLM",
            made_of=("llama", "mistral"),
            block="block_sparse_moe",
            matrices=("w1", "w3", "w2"),
            counts="num_local_experts",
            settings={},
        ),
        Family(
            name="qwen2_moe",
            architecture="Qwen2MoeForCausalLM",
            made_of=("llama", "mistral", "qwen2"),
            block="mlp",
            matrices=MATRICES,
            counts="num_experts",
            settings={**_QWEN, "use_sliding_window": False, "qkv_bias": True},
            shared=(1, 1),
            shared_block="shared_expert",
            shared_router="shared_expert_gate",
            extra=QKV_BIASES,
            biases=True,
        ),
        Family(
            name="qwen3_moe",
            architecture="Qwen3MoeForCausalLM",
            made_of=("qwen3",),
            block="mlp",
            matrices=MATRICES,
            counts="num_experts",
            settings={**_QWEN, "use_sliding_window": False},
            extra=(
                *QKV_BIASES,
                "self_attn.o_proj.bias",
                "self_attn.q_norm.weight",
                "self_attn.k_norm.weight",
            ),
        ),
        Family(
            name="deepseek",
            architecture="DeepseekForCausalLM",
            made_of=("llama", "mistral"),
            block="mlp",
            matrices=MATRICES,
            counts="n_routed_experts",
            settings=_DEEPSEEK,
            shared=(0, 1),
            shared_block="shared_experts",
        ),
    )
}

_USUAL: Final[Mapping[str, FamilyName]] = {
    "llama": "mixtral",
    "mistral": "mixtral",
    "qwen2": "qwen2_moe",
    "qwen3": "qwen3_moe",
}


def family_for(name: str, config: Mapping[str, Any], wanted: FamilyName | None) -> Family:
    """Return what a model named `name` becomes: what is wanted, or what its model type usually becomes.

    Raises PlanError for a model type that cannot become it.
    """
    kind = str(config.get("model_type"))
    if kind not in _USUAL:
        known = ", ".join(f"`{each}`" for each in _USUAL)
        raise PlanError(
            f"`{name}` is no dense model that a mixture can be made of, got model type `{kind}`; "
            f"give models of type {known}"
        )
    family = FAMILIES[wanted or _USUAL[kind]]
    if kind not in family.made_of:
        fitting = [each.name for each in FAMILIES.values() if kind in each.made_of]
        raise PlanError(
            f"`{name}` is a {kind}, which cannot become `layout: {family.name}`; "
            f"write {' or '.join(f'`{each}`' for each in fitting)}"
        )
    return family
