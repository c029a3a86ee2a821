"""prune.wanda: weights become 0 that are small, or whose inputs are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from surgery.ops import Chunk, Need, Signature, Split, op
from surgery.targets import Targets, is_stack, is_target
from surgery_prune._magnitude import largest_of_each
from surgery_prune._sparsity import Amount, check_pattern, compared, pruned

if TYPE_CHECKING:
    from torch import Tensor

# A Linear (in practice a rarely used expert) that saw fewer tokens than this share of its inputs is pruned by
# magnitude: so few say little about which of its inputs are large. Our choice; the paper has no experts.
FEWEST: Final = 0.25


class Wanda(Amount):
    """Parameters of prune.wanda."""

    targets: Targets = "linear"
    """What is pruned: Linears of the blocks, or `all` Linears, the head too. `where:` narrows it down."""


def _same(signature: Signature, p: Wanda) -> int | None:
    if not is_target(signature, p.targets):
        return 0
    if p.group is not None:
        return 0 if p.group[0] == p.group[1] else None
    return 0 if pruned(p.share, compared(signature)) == 0 else None


def _check(signature: Signature, p: Wanda) -> str | None:
    if not is_target(signature, p.targets):
        return None
    if is_stack(signature) or len(signature.first.shape) != 2:
        shape = signature.first.shape
        return f"{shape} is no single Linear's [out, in]; leave the tensor out with `where:`"
    return check_pattern(signature, p)


@op(
    "prune.wanda",
    split=Split.ROW,
    params=Wanda,
    models=1,
    simplify=_same,
    check=_check,
    vectors="skip",
    buffers=1,
    needs=[Need.SQUARES, Need.TOKENS],
    note="pruned weights are written as zeros in full size: no file gets smaller and no model faster by itself",
    cite="Sun et al. 2024, A Simple and Effective Pruning Approach for Large Language Models, ICLR, arXiv:2306.11695",
)
def wanda(x: Chunk, p: Wanda) -> Tensor:
    """Set weights to 0 that contribute least on calibration text: of every row those with the smallest |W_ij|·‖X_j‖₂.

    ‖X_j‖ is the norm of input j over all calibration tokens, when the blocks before are pruned already. Of every row
    exactly ⌊s·in⌋ weights become 0 (with `pattern` all but N of every M neighbours); of equal scores those of the lower
    index stay. The weights that stay are not changed. A Linear that saw fewer tokens
    than a quarter of its inputs, an expert that is rarely used, is pruned by magnitude.
    """
    weights = x.models[0]
    scores = x.scratch(0).copy_(weights)
    squares, tokens = x.statistics[Need.SQUARES], x.statistics[Need.TOKENS]
    if float(tokens) >= FEWEST * len(squares):
        scores.mul_(squares.sqrt().to(scores))
    return x.out.copy_(weights).masked_fill_(largest_of_each(scores, x.signature, p).logical_not_(), 0.0)
