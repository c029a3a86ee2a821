"""Which tensors are factors, what they look like once the rank is another, and what a config says of them."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError
from surgery.ops import Made, Signature
from surgery.tensors import Role, TensorInfo, TensorSpec
from surgery_adapter._config import described, scales
from surgery_adapter._pairs import Side, Stored, Weighted, check, module_of, rank_in, side_of, sized

M = "base_model.model.l.0.q"
A, B = f"{M}.lora_A.weight", f"{M}.lora_B.weight"


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, shape, "BF16")


def signature(*specs: TensorSpec, weight: float = 1.0) -> Signature:
    each = tuple(Weighted(weight=weight) for _ in specs)
    return Signature(specs[0].name, specs, None, each, Role(), specs[0].numel)


def test_the_end_of_a_name_says_which_factor_it_is():
    names = {A: Side.A, B: Side.B, f"{M}.lora_embedding_A": Side.A, f"{M}.lora_embedding_B": Side.B}
    assert {name: side_of(name) for name in names} == names
    assert {module_of(name) for name in names} == {M}
    assert [side_of(name) for name in (f"{M}.weight", f"{M}.lora_A.bias", "lora_A")] == [None] * 3


def test_the_rank_is_as_first_and_bs_second_dimension():
    assert (rank_in(spec(A, 3, 5)), rank_in(spec(B, 4, 3)), rank_in(spec(B, 4, 2, 1, 1))) == (3, 3, 2)
    p = Stored(dtype="float16")
    assert sized(signature(spec(A, 3, 5, 2, 2)), 7, p) == TensorSpec(A, (7, 5, 2, 2), "F16")
    assert sized(signature(spec(B, 4, 3, 1, 1)), 7, p) == TensorSpec(B, (4, 7, 1, 1), "F16")


def test_models_may_differ_in_rank_only():
    p = Stored()
    assert check(signature(spec(A, 3, 5), spec(A, 9, 5)), p) is None
    assert check(signature(spec(B, 4, 3), spec(B, 4, 9)), p) is None
    told = check(signature(spec(B, 4, 3), spec(B, 5, 3)), p)
    assert (
        told == "the adapters differ in more than the rank, got (4, 3) and (5, 3); take adapters of one model"
    )
    assert (
        check(signature(spec(f"{M}.bias", 4)), p) == "is no factor of a product; leave it out with `where:`"
    )


def test_ranks_that_deviate_are_in_both_patterns():
    said = scales({"l.0.q": 4, "l.1.q": 4, "l.0.v": 2})
    assert said == {
        "r": 4,
        "lora_alpha": 4,
        "rank_pattern": {r"l\.0\.v": 2},
        "alpha_pattern": {r"l\.0\.v": 2},
        "use_rslora": False,
        "target_modules": ["l.0.q", "l.0.v", "l.1.q"],
    }


def made(changed: dict[str, Signature], **config: object) -> Made:
    kept = {f"{M[:-1]}v.lora_A.weight": TensorInfo(spec(f"{M[:-1]}v.lora_A.weight", 2, 5), Role(), 0.0)}
    return Made({"peft_type": "LORA", "use_rslora": True, **config}, "./a", changed, kept)


def test_a_config_has_no_path_and_names_modules_in_full():
    changed = {A: signature(spec(A, 3, 5)), B: signature(spec(B, 4, 3))}
    given = made(changed, base_model_name_or_path="/home/me/zoo/base", layers_to_transform=[0])
    said = described(given, Stored(), lambda s, p: rank_in(s.first))
    assert (said.config_file, said.stem, said.sidecars) == ("adapter_config.json", "adapter_model", False)
    assert said.config["base_model_name_or_path"] == "base"
    assert said.config["target_modules"] == ["l.0.q", "l.0.v"]
    assert said.config["layers_to_transform"] is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {A: signature(spec(A, 3, 5))},
            f"works on one factor of {M} only; let `where:` select both, or neither",
        ),
        (
            {A: signature(spec(A, 3, 5)), B: signature(spec(B, 4, 3), weight=2.0)},
            f"factors of {M} have different parameters; let selectors name whole modules",
        ),
    ],
)
def test_a_pair_that_is_torn_apart_is_refused(changed: dict[str, Signature], told: str):
    with pytest.raises(PlanError) as caught:
        described(made(changed), Stored(), lambda s, p: 1)
    assert str(caught.value) == told
