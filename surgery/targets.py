"""Which tensors a method changes by default: the Linears of the blocks, told by role, name and shape. Imports no torch.

Embeddings, heads, norms, routers and biases are small or touchy, and papers leave them alone.
"""

from __future__ import annotations

from typing import Final, Literal

from surgery.math.ranks import flattened
from surgery.ops import Signature

Targets = Literal["linear", "all"]

# Model types whose Linears are transformers' Conv1D: their weights are [in, out].
CONV1D: Final = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})

_MATRIX: Final = 2
_STACK: Final = 3  # the experts of a layer in one tensor: [experts, ...]
_PARTS: Final = frozenset(
    {"attention", "cross_attention", "mixer", "mlp", "experts", "shared_expert", "other"}
)
_NOT_LINEAR: Final = frozenset({"norm", "sinks", "router", "position"})


def is_block_linear(signature: Signature) -> bool:
    """Return whether a tensor is a Linear's weight in a block, or a stack of experts' weights.

    A matrix called `weight` in a layer, unless its role is a norm or router; a role that is not known is no hindrance.
    """
    role, dimensions = signature.role, len(signature.first.shape)
    part, _, which = role.kind.partition(".")
    if role.layer is None or part not in _PARTS or which in _NOT_LINEAR:
        return False
    return is_stack(signature) or (
        dimensions == _MATRIX and signature.name.rpartition(".")[2] in ("weight", signature.name)
    )


def is_stack(signature: Signature) -> bool:
    """Return whether a tensor holds the matrices of several experts, [experts, ...]."""
    role = signature.role
    experts = role.kind.partition(".")[0] == "experts" and role.expert is None
    return experts and len(signature.first.shape) == _STACK


def is_target(signature: Signature, targets: Targets) -> bool:
    """Return whether a tensor is to be changed: Linears of the blocks, or everything of two dimensions and more."""
    return is_block_linear(signature) if targets == "linear" else len(signature.first.shape) >= _MATRIX


def matrix_shape(signature: Signature) -> tuple[int, int]:
    """Return rows and columns of each matrix: [out, in·kh·kw] of a convolution, [.., ..] of a stack's experts."""
    shape = signature.first.shape
    return (shape[1], shape[2]) if is_stack(signature) else flattened(shape)
