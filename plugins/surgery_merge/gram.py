"""merge.gram: what a model's Linears read on a text, for merge.regmean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.ops import Chunk, Description, Made, Need, Params, Signature, Space, Split, op
from surgery.targets import Targets, is_stack
from surgery.tensors import TensorSpec
from surgery_merge._gram import has_gram

if TYPE_CHECKING:
    from torch import Tensor

_DOUBLE = 8


class Gram(Params):
    """Parameters of merge.gram."""

    targets: Targets = "linear"
    """Which matrices: those of Linears of the blocks, or `all`, the head too. `where:` narrows it down."""


def _left_out(signature: Signature, p: Gram) -> int | None:
    """Return what stands for `nothing to do`: what no Linear is has no Gram matrix."""
    return None if has_gram(signature, p.targets) else 0


def _check(signature: Signature, p: Gram) -> str | None:
    shape = signature.first.shape
    return (
        f"{shape} holds several experts, whose inputs differ; leave it out with `where:`"
        if is_stack(signature)
        else None
    )


def _square(signature: Signature, p: Gram) -> TensorSpec:
    width = signature.first.shape[1]
    return TensorSpec(signature.name, (width, width), "F32")


def _described(made: Made, p: Gram) -> Description:
    """Return a config that no loader takes for a model's."""
    return Description({"gram_of": made.config.get("model_type")}, "gram.json", sidecars=False)


@op(
    "merge.gram",
    split=Split.TENSOR,
    params=Gram,
    models=1,
    gives=Space.STATISTIC,
    vectors="skip",
    rest="drop",
    infer=lambda signature, p: _square(signature, p) if has_gram(signature, p.targets) else signature.first,
    simplify=_left_out,
    check=_check,
    needs=[Need.GRAM],
    workspace=lambda signature, p: 3 * _DOUBLE * signature.first.shape[1] ** 2,
    describe=_described,
    cite="Jin et al. 2023, Dataless Knowledge Fusion by Merging Weights of Language Models, "
    "arXiv:2212.09849, section 3",
)
def gram(x: Chunk, p: Gram) -> Tensor:
    """Sum xᵀx over the inputs x of each Linear on calibration text: XᵀX [in, in] in float32, named like the weight.

    The model is run as it is, block by block; sums are taken in float64. A square of every Linear's inputs is large:
    Llama-2-7B has 7.1 billion numbers in them, 28 GB. Embeddings, norms and biases have none.
    """
    found = x.statistics[Need.GRAM]
    return (
        found.add(found.T).mul_(0.5).to(x.models[0].device)
    )  # BLAS need not make it symmetric to the last bit
