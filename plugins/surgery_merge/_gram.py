"""Which tensors have a Gram matrix of their inputs: matrices that a model multiplies with. Imports no torch."""

from __future__ import annotations

from surgery.ops import Signature
from surgery.targets import Targets, is_block_linear

GRAM = "gram"
MATRIX = 2


def has_gram(signature: Signature, targets: Targets) -> bool:
    """Return whether a tensor is a Linear's [out, in]: one of the blocks, or with `all` any matrix but embeddings."""
    if len(signature.first.shape) != MATRIX:
        return False
    kind = signature.role.kind.partition(".")[0]
    return is_block_linear(signature) if targets == "linear" else kind not in ("embed", "norm", "position")
