"""Kinds of adapters other than LoRA, against peft's own `merge_and_unload`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.errors import CheckpointError, PlanError
from surgery_hf import folded
from surgery_hf.adapters import fold
from surgery_hf.peft_kinds import KINDS
from tests.plugins.hf.conftest import PEFT, compare_with_peft, read

BOTH = ["q_proj", "v_proj", "head"]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("ADALORA", {"target_modules": BOTH, "init_r": 4, "lora_alpha": 6, "total_step": 9}),
    ("ADALORA", {"target_modules": ["c_attn"], "init_r": 3, "total_step": 9, "fan_in_fan_out": True}),
    ("IA3", {"target_modules": BOTH, "feedforward_modules": ["v_proj"]}),
    ("IA3", {"target_modules": ["c_attn"], "feedforward_modules": [], "fan_in_fan_out": True}),
    ("IA3", {"target_modules": ["c_attn"], "feedforward_modules": ["c_attn"], "fan_in_fan_out": True}),
    ("IA3", {"target_modules": ["q_proj"], "feedforward_modules": [], "modules_to_save": ["norm"]}),
    ("LOHA", {"target_modules": BOTH, "r": 2, "alpha": 5}),
    (
        "LOHA",
        {
            "target_modules": BOTH,
            "r": 2,
            "alpha": 5,
            "rank_pattern": {"head": 3},
            "alpha_pattern": {"q_proj": 1},
        },
    ),
    ("LOHA", {"target_modules": ["conv"], "r": 2, "alpha": 3}),
    ("LOHA", {"target_modules": ["conv"], "r": 2, "alpha": 3, "use_effective_conv2d": True}),
    ("LOKR", {"target_modules": BOTH, "r": 1, "alpha": 3}),
    ("LOKR", {"target_modules": BOTH, "r": 8, "alpha": 3, "decompose_factor": 2}),
    (
        "LOKR",
        {"target_modules": ["q_proj"], "r": 1, "alpha": 3, "decompose_both": True, "decompose_factor": 4},
    ),
    ("LOKR", {"target_modules": ["conv", "square"], "r": 1, "alpha": 3}),
    (
        "LOKR",
        {
            "target_modules": ["square"],
            "r": 1,
            "alpha": 3,
            "use_effective_conv2d": True,
            "decompose_factor": 1,
        },
    ),
    ("VERA", {"target_modules": BOTH, "r": 4}),
    ("VERA", {"target_modules": ["c_attn"], "r": 4, "fan_in_fan_out": True}),
    ("VERA", {"target_modules": ["q_proj", "v_proj"], "r": 4, "bias": "all"}),
    ("OFT", {"target_modules": BOTH, "oft_block_size": 2, "use_cayley_neumann": False}),
    ("OFT", {"target_modules": BOTH, "oft_block_size": 2}),
    ("OFT", {"target_modules": ["v_proj"], "oft_block_size": 4, "num_cayley_neumann_terms": 3}),
    (
        "OFT",
        {
            "target_modules": ["v_proj"],
            "oft_block_size": 4,
            "num_cayley_neumann_terms": 2,
            "block_share": True,
        },
    ),
    (
        "OFT",
        {
            "target_modules": ["q_proj"],
            "oft_block_size": 3,
            "coft": True,
            "eps": 0.5,
            "use_cayley_neumann": False,
        },
    ),
    ("OFT", {"target_modules": ["square"], "oft_block_size": 4, "use_cayley_neumann": False}),
    ("OFT", {"target_modules": ["embed"], "oft_block_size": 3, "use_cayley_neumann": False}),
    ("BOFT", {"target_modules": BOTH, "boft_block_size": 2}),
    ("BOFT", {"target_modules": ["square"], "boft_block_size": 4}),
    ("HRA", {"target_modules": BOTH, "r": 3}),
    ("HRA", {"target_modules": ["q_proj", "square"], "r": 3, "apply_GS": True, "bias": "all"}),
    ("SHIRA", {"target_modules": BOTH, "r": 1, "random_seed": 3}),
    ("SHIRA", {"target_modules": ["q_proj"], "r": 3, "modules_to_save": ["norm"]}),
]


@pytest.mark.parametrize(("kind", "said"), CASES, ids=lambda case: case if isinstance(case, str) else "")
def test_the_fold_is_pefts(tmp_path: Path, kind: str, said: dict[str, Any]):
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    compare_with_peft(tmp_path, PEFT_TYPE_TO_CONFIG_MAPPING[kind](**said))


def test_every_kind_is_compared():
    assert {kind for kind, _ in CASES} == set(KINDS)


Tensors = Mapping[str, torch.Tensor]
Write = Callable[..., Path]
t = torch.tensor


def folded_by_hand(write: Write, kind: str, weight: torch.Tensor, tensors: Tensors, **said: Any) -> Any:
    named = {f"q{end}": tensor for end, tensor in tensors.items()}
    folder = write(named, **{"peft_type": kind, "r": None, "lora_alpha": None, **said})
    return read(
        fold(folder, MemoryCheckpoint({"q.weight": weight, "q.bias": t([1.0, 2.0])})), "q.weight"
    ).tolist()


ONES, ZEROS = torch.ones(2, 2), torch.zeros(2, 2)


def test_adalora_adds_the_product_weighed_by_singular_values(adapter: Write):
    parts = {".lora_A": t([[1.0, 2.0]]), ".lora_B": t([[1.0], [3.0]]), ".lora_E": t([[10.0]])}
    # of four ranks one is left; the scale is 4.00001/(4 + 1e-5)
    found = folded_by_hand(adapter, "ADALORA", ONES, parts, init_r=4, lora_alpha=4.00001)
    assert found == [pytest.approx([11, 21]), pytest.approx([31, 61])]


@pytest.mark.parametrize("said", [{}, {"fan_in_fan_out": True}])
def test_adalora_of_no_rank_left_changes_nothing(adapter: Write, said: dict[str, Any]):
    parts = {".lora_A": torch.ones(0, 2), ".lora_B": torch.ones(2, 0), ".lora_E": torch.ones(0, 1)}
    assert folded_by_hand(adapter, "ADALORA", ONES, parts, init_r=4, lora_alpha=4, **said) == [[1, 1], [1, 1]]


def test_ia3_multiplies_outputs_and_bias_or_inputs(adapter: Write):
    outputs = {".ia3_l": t([[3.0], [5.0]])}
    assert folded_by_hand(adapter, "IA3", ONES, outputs) == [[3, 3], [5, 5]]
    found = fold(
        adapter({"q.ia3_l": t([[3.0], [5.0]])}, peft_type="IA3", r=None, lora_alpha=None),
        MemoryCheckpoint({"q.weight": ONES, "q.bias": t([1.0, 2.0])}),
    )
    assert read(found, "q.bias").tolist() == [3, 10]
    assert folded_by_hand(adapter, "IA3", ONES, {".ia3_l": t([[3.0, 5.0]])}) == [[3, 5], [3, 5]]


def test_loha_adds_the_entrywise_product_of_two_products(adapter: Write):
    factors = {".hada_w1_a": t([[1.0], [2.0]]), ".hada_w1_b": t([[1.0, 3.0]])}  # [[1, 3], [2, 6]]
    factors |= {".hada_w2_a": t([[1.0], [10.0]]), ".hada_w2_b": t([[1.0, 2.0]])}  # [[1, 2], [10, 20]]
    assert folded_by_hand(adapter, "LOHA", ONES, factors, r=1, alpha=2) == [[3, 13], [41, 241]]


def test_lokr_adds_the_kronecker_product(adapter: Write):
    sides = {".lokr_w1": t([[1.0, 2.0]]), ".lokr_w2": t([[1.0], [10.0]])}
    assert folded_by_hand(adapter, "LOKR", ZEROS, sides, r=2, alpha=1) == [[0.5, 1], [5, 10]]


def test_vera_scales_rows_of_both_random_matrices(adapter: Write):
    folder = adapter(
        {"q.vera_lambda_b": t([1.0, 3.0]), "q.vera_lambda_d": t([2.0])},
        peft_type="VERA",
        r=1,
        lora_alpha=None,
    )
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    shared = {"base_model.vera_A": t([[1.0, 4.0, 9.0]]), "base_model.vera_B": t([[1.0], [5.0], [9.0]])}
    save_file(load_file(file) | shared, file)
    found = fold(folder, MemoryCheckpoint({"q.weight": ZEROS}))
    assert read(found, "q.weight").tolist() == [[2, 8], [30, 120]]  # the first two of three columns and rows


@pytest.mark.parametrize(
    ("weight", "A", "told"),
    [
        (
            ZEROS,
            torch.ones(1, 3, 1),
            "vera_A: has shapes (1, 3, 1) and (3, 1) of the random matrices for rank 1; ",
        ),
        (torch.zeros(2), torch.ones(1, 3), "q.vera_lambda_b: has shape (2,), the base's weight (2,); "),
    ],
)
def test_vera_of_odd_dimensions_is_refused(adapter: Write, weight: torch.Tensor, A: torch.Tensor, told: str):
    parts = {"q.vera_lambda_b": t([1.0, 3.0]), "q.vera_lambda_d": t([2.0])}
    folder = adapter(parts, peft_type="VERA", r=1, lora_alpha=None)
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.vera_A": A, "base_model.vera_B": torch.ones(3, 1)}, file)
    with pytest.raises(PlanError) as error:
        fold(folder, MemoryCheckpoint({"q.weight": weight}))
    assert told in str(error.value)


PLACES = torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.int32)


def test_shira_adds_numbers_at_their_places(adapter: Write):
    parts = {".shira_weight": t([5.0, 7.0, 9.0]), ".shira_indices": PLACES}
    assert folded_by_hand(adapter, "SHIRA", ONES, parts, r=1) == [[1, 8], [6, 10]]


def test_shira_places_that_are_no_integers_are_refused(adapter: Write):
    parts = {".shira_weight": t([5.0]), ".shira_indices": t([[0.5], [1.0]])}
    with pytest.raises(
        PlanError, match="shira_indices: is stored as F32, places are integers; save the adapter"
    ):
        folded_by_hand(adapter, "SHIRA", ONES, parts, r=1)


def test_shira_does_not_depend_on_the_blocks_of_rows(adapter: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folded, "BLOCK", 2)  # a row
    parts = {".shira_weight": t([5.0, 7.0, 9.0]), ".shira_indices": PLACES}
    assert folded_by_hand(adapter, "SHIRA", ONES, parts, r=1) == [[1, 8], [6, 10]]


@pytest.mark.parametrize("place", [-1, 2])
def test_shira_outside_of_the_weight_is_an_error(adapter: Write, place: int):
    places = t([[0], [place]], dtype=torch.int32)
    told = r"q\.shira_indices: names places outside of a weight of shape \(2, 2\); fold it into the base"
    with pytest.raises(CheckpointError, match=told):
        folded_by_hand(adapter, "SHIRA", ONES, {".shira_weight": t([1.0]), ".shira_indices": places}, r=1)


def test_oft_turns_rows_by_the_exact_cayley_transform_or_its_series(adapter: Write):
    # Q = [[0, 1], [-1, 0]]: R = [[0, -1], [1, 0]], and a row times its transpose
    turn, row = {".oft_R.weight": t([[1.0]])}, t([[1.0, 2.0], [0.0, 1.0]])
    assert folded_by_hand(adapter, "OFT", row, turn, use_cayley_neumann=False) == [[-2, 1], [-1, 0]]
    # with two terms R = I + 2Q
    assert folded_by_hand(adapter, "OFT", row, turn, num_cayley_neumann_terms=2) == [[5, 0], [2, 1]]


def test_boft_turns_and_scales_rows(adapter: Write):
    tensors = {
        ".boft_R": t([[[[0.0, 2.0], [0.0, 0.0]]]]),
        ".boft_s": t([[1.0], [10.0]]),
    }  # the skew half of it
    assert folded_by_hand(adapter, "BOFT", t([[1.0, 2.0], [0.0, 1.0]]), tensors) == [[-2, 1], [-10, 0]]


def test_hra_reflects_rows_at_the_plane_across_each_normal(adapter: Write):
    assert folded_by_hand(adapter, "HRA", ONES, {".hra_u": t([[3.0], [0.0]])}, r=1) == [[-1, 1], [-1, 1]]
    both = {".hra_u": t([[1.0, 1.0], [0.0, 1.0]])}  # across e1, then across (1, 1)/2^.5: -1, 1 becomes itself
    assert folded_by_hand(adapter, "HRA", ONES, both, r=2) == [pytest.approx([-1, 1]), pytest.approx([-1, 1])]
    # orthogonalized the second is e2
    assert folded_by_hand(adapter, "HRA", ONES, both, r=2, apply_GS=True) == [[-1, -1], [-1, -1]]


WIDE: list[tuple[str, dict[str, tuple[int, ...]], dict[str, Any]]] = [
    ("IA3", {".ia3_l": (150, 1)}, {}),
    ("ADALORA", {".lora_A": (3, 70), ".lora_B": (150, 3), ".lora_E": (3, 1)}, {"init_r": 4, "lora_alpha": 3}),
    (
        "LOHA",
        {".hada_w1_a": (150, 3), ".hada_w1_b": (3, 70), ".hada_w2_a": (150, 3), ".hada_w2_b": (3, 70)},
        {"r": 3, "alpha": 1},
    ),
    ("LOKR", {".lokr_w1": (15, 7), ".lokr_w2": (10, 10)}, {"r": 3, "alpha": 1}),
    ("OFT", {".oft_R.weight": (14, 10)}, {}),
    ("BOFT", {".boft_R": (1, 14, 5, 5), ".boft_s": (150, 1)}, {}),
    ("HRA", {".hra_u": (70, 3)}, {"r": 3}),
]


@pytest.mark.parametrize(
    ("kind", "shapes", "said"), WIDE, ids=lambda part: part if isinstance(part, str) else ""
)
def test_any_range_has_the_bytes_of_the_whole(
    adapter: Write, monkeypatch: pytest.MonkeyPatch, kind: str, shapes: Any, said: Any
):
    monkeypatch.setattr(folded, "BLOCK", 700)  # ten rows
    torch.manual_seed(1)
    tensors = {f"q{end}": torch.randn(shape) for end, shape in shapes.items()}
    folder = adapter(tensors, **{"peft_type": kind, "r": None, "lora_alpha": None, **said})
    checkpoint = fold(folder, MemoryCheckpoint({"q.weight": torch.randn(150, 70)}))
    whole = read(checkpoint, "q.weight").numpy().tobytes()
    for start, length in [(0, 4), (2797, 7), (2800, 2800), (4 * 70 * 149 + 9, 200), (1, len(whole) - 2)]:
        got = bytearray(length)
        checkpoint.read_into("q.weight", start, memoryview(got))
        assert bytes(got) == whole[start : start + length]
    assert checkpoint.whole_file_bytes() <= 8 * sum(tensor.numel() for tensor in tensors.values()) * 3


def misfit(write: Write, kind: str, tensors: dict[str, tuple[int, ...]], **said: Any) -> str:
    named = {f"q{end}": torch.zeros(shape) for end, shape in tensors.items()}
    folder = write(named, **{"peft_type": kind, "r": None, "lora_alpha": None, **said})
    with pytest.raises(PlanError) as caught:
        fold(folder, MemoryCheckpoint({"q.weight": torch.zeros(4, 6), "r.weight": torch.zeros(2, 2)}))
    return str(caught.value).removeprefix(f"{folder}: {PEFT}q.")


ELSEWHERE = "fold it into the base that it was trained on"


@pytest.mark.parametrize(
    ("kind", "tensors", "said", "told"),
    [
        ("IA3", {".ia3_l": (6, 1)}, {}, f"ia3_l: has shape (6, 1), the base's weight (4, 6); {ELSEWHERE}"),
        (
            "IA3",
            {".hra_u": (6, 1)},
            {},
            "hra_u: is not a name that peft gives; only what is understood is folded",
        ),
        (
            "LOHA",
            {".hada_w1_a": (4, 1)},
            {"r": 1, "alpha": 1},
            "hada_w1_a: stands without its `hada_w1_b`; save the adapter again",
        ),
        (
            "LOHA",
            {".hada_w1_a": (4, 2), ".hada_w1_b": (2, 6), ".hada_w2_a": (4, 2), ".hada_w2_b": (2, 6)},
            {"r": 1, "alpha": 1},
            f"hada_w1_a: has shape (4, 2), the config says rank 1 and the base 4 rows; {ELSEWHERE}",
        ),
        (
            "LOKR",
            {".lokr_w1": (2, 2), ".lokr_w2": (2, 2)},
            {"r": 1, "alpha": 1},
            f"lokr_w1: multiplies to 4 rows of 4, the base's weight is (4, 6); {ELSEWHERE}",
        ),
        (
            "LOKR",
            {".lokr_w1": (2, 2), ".lokr_w2_a": (2, 3), ".lokr_w2_b": (3, 3)},
            {"r": 1, "alpha": 1},
            "lokr_w2_a: factors have shapes (2, 3) and (3, 3), the config says rank 1; "
            "the config belongs to another adapter",
        ),
        (
            "VERA",
            {".vera_lambda_b": (4,), ".vera_lambda_d": (2,)},
            {},
            "vera_lambda_b: the adapter was saved without its random matrices, which are not made again here; "
            "save it with `save_projection: true`",
        ),
        (
            "OFT",
            {".oft_R.weight": (2, 2)},
            {},
            f"oft_R.weight: has shape (2, 2), the base's weight (4, 6); {ELSEWHERE}",
        ),
        (
            "BOFT",
            {".boft_R": (2, 3, 2, 2), ".boft_s": (4, 1)},
            {},
            "boft_R: has 2 butterfly factors, whose shuffles are not folded; merge it with peft",
        ),
        (
            "SHIRA",
            {".shira_weight": (3,), ".shira_indices": (2, 4)},
            {"r": 1},
            "shira_indices: has shape (2, 4) for values of (3,); save the adapter again",
        ),
        (
            "SHIRA",
            {".shira_weight": (3,)},
            {"r": 1},
            "shira_weight: stands without its `shira_indices`; save the adapter again",
        ),
        (
            "HRA",
            {".hra_u": (6, 2)},
            {"r": 3},
            "hra_u: has 2 columns, the config says rank 3; the config belongs to another adapter",
        ),
        (
            "HRA",
            {".hra_u": (6,)},
            {"r": 1},
            "hra_u: tensors of the shapes (6,) have not the dimensions of `HRA`; save the adapter again",
        ),
        (
            "BOFT",
            {".boft_R": (1, 3, 2), ".boft_s": (4, 1)},
            {},
            "boft_R: tensors of the shapes (1, 3, 2), (4, 1) have not the dimensions of `BOFT`; save the adapter again",
        ),
        (
            "LOKR",
            {".lokr_w1": (2, 2), ".lokr_w2_a": (), ".lokr_w2_b": (1, 3)},
            {"r": 1, "alpha": 1},
            "lokr_w1: tensors of the shapes (2, 2), (), (1, 3) have not the dimensions of `LOKR`; "
            "save the adapter again",
        ),
        (
            "OFT",
            {".oft_R.weight": (3, 1)},
            {"num_cayley_neumann_terms": "5"},
            "oft_R.weight: `num_cayley_neumann_terms` of its config must be a number above 0, got '5'; mend the config",
        ),
        (
            "OFT",
            {".oft_R.weight": (3, 1)},
            {"coft": True, "eps": [1]},
            "oft_R.weight: `eps` of its config must be a number above 0, got [1]; mend the config",
        ),
    ],
)
def test_what_does_not_fit_is_refused(adapter: Write, kind: str, tensors: Any, said: Any, told: str):
    assert misfit(adapter, kind, tensors, **said) == told


def test_a_module_that_the_base_lacks_is_refused(adapter: Write):
    folder = adapter({"k.ia3_l": t([[1.0]])}, peft_type="IA3", r=None, lora_alpha=None)
    with pytest.raises(PlanError) as caught:
        fold(folder, MemoryCheckpoint({"q.weight": ONES}))
    assert str(caught.value) == f"{folder}: {PEFT}k.ia3_l: the base has no such tensor; {ELSEWHERE}"
