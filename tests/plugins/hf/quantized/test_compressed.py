"""compressed-tensors: what the library wrote decodes to what the library decompresses, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch

from surgery.errors import CheckpointError

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def config_of(*groups, form="pack-quantized", **rest):
    named = {f"group_{index}": group for index, group in enumerate(groups)}
    return {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": form,
            "config_groups": named,
            **rest,
        }
    }


def group(targets=("Linear",), **weights):
    return {"targets": list(targets), "weights": weights}


INT4 = {"num_bits": 4, "strategy": "channel"}

# one row of four 4-bit codes [7, -8, 2, 0], stored with 8 added, scale 2
ROW = {
    "weight_packed": torch.tensor([[0x8A0F]], dtype=torch.int32),
    "weight_scale": torch.tensor([[2.0]]),
    "weight_shape": torch.tensor([1, 4]),
}


def test_a_row_of_four_codes(opened, values):
    found = opened(ROW, config_of(group(**INT4)))
    assert values(found).tolist() == [[14.0, -16.0, 4.0, 0.0]]
    assert list(found.tensors) == ["m.weight"]


def test_a_zero_point_is_subtracted_before_the_scale_multiplies(opened, values):
    # stored with 8 added, like the codes: 5 is -3
    zero = torch.tensor([[5]], dtype=torch.int32)
    found = opened(ROW | {"weight_zero_point": zero}, config_of(group(symmetric=False, **INT4)))
    assert values(found).tolist() == [[20.0, -10.0, 10.0, 6.0]]


def test_zero_points_of_old_writers_are_stored_one_by_one(opened, values):
    zero = torch.tensor([[-3]], dtype=torch.int8)
    found = opened(ROW | {"weight_zero_point": zero}, config_of(group(symmetric=False, **INT4)))
    assert values(found).tolist() == [[20.0, -10.0, 10.0, 6.0]]


@pytest.mark.parametrize(("order", "wanted"), [([1, 0, 1, 0], [21, -16, 6, 0]), ([-1] * 4, [14, -16, 6, 0])])
def test_an_activation_order_names_the_group_of_each_column(opened, values, order, wanted):
    grouped = group(num_bits=4, strategy="group", group_size=2, actorder="group")
    tensors = ROW | {
        "weight_scale": torch.tensor([[2.0, 3.0]]),
        "weight_g_idx": torch.tensor(order, dtype=torch.int32),
    }
    assert values(opened(tensors, config_of(grouped))).tolist() == [wanted]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_integers_equal_the_librarys_own(compress, opened, values, weight, bits, symmetric):
    for dtype in DTYPES:
        for columns, settings in (
            (96, {"strategy": "group", "group_size": 32}),
            (45, {"strategy": "channel"}),
        ):
            stored, wanted, config = compress(
                "pack-quantized", weight(37, columns), dtype, num_bits=bits, symmetric=symmetric, **settings
            )
            assert torch.equal(values(opened(stored, config)).to(dtype), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", ["tensor", "channel"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_int8_equals_the_librarys_own(compress, opened, values, weight, strategy, symmetric, dtype):
    stored, wanted, config = compress(
        "int-quantized", weight(7, 45), dtype, num_bits=8, strategy=strategy, symmetric=symmetric
    )
    assert torch.equal(values(opened(stored, config)).to(dtype), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "settings",
    [{"strategy": "tensor"}, {"strategy": "channel"}, {"strategy": "block", "block_structure": [8, 16]}],
    ids=lambda settings: settings["strategy"],
)
def test_fp8_equals_the_librarys_own(compress, opened, values, weight, settings, dtype):
    stored, wanted, config = compress(
        "float-quantized", weight(17, 45), dtype, num_bits=8, type="float", **settings
    )
    assert torch.equal(values(opened(stored, config)).to(dtype), wanted)


def test_a_product_keeps_the_bits_that_a_scale_of_16_bits_has_not(compress, opened, values, weight):
    stored, rounded, config = compress("int-quantized", weight(4, 32), num_bits=8, strategy="channel")
    exact = stored["weight"].double() * stored["weight_scale"].double()
    assert torch.equal(values(opened(stored, config)).double(), exact)
    assert not torch.equal(rounded.double(), exact)


def test_scales_of_activations_are_hidden_and_other_tensors_pass(opened):
    others = {"bias": torch.ones(1), "input_scale": torch.ones(1), "m.k_scale": torch.ones(1)}
    found = opened(ROW | others, config_of(group(**INT4)))
    assert sorted(found.tensors) == ["m.bias", "m.weight"]


def test_a_module_is_decoded_as_the_group_that_names_it(opened, values):
    # 4 codes of 8 bits and 4 of 4 bits both fit one word: only the names tell them apart
    groups = group(["re:.*nothing"], **INT4), group(["m"], num_bits=8, strategy="channel")
    packed = torch.tensor([[-0x7F7E7D7C]], dtype=torch.int32)  # bytes 84 82 81 80
    found = opened(ROW | {"weight_packed": packed}, config_of(*groups))
    assert values(found).tolist() == [[8.0, 4.0, 2.0, 0.0]]


def test_a_module_that_no_group_names_is_decoded_as_the_one_that_fits(opened, values):
    wide = group(["Other"], num_bits=4, strategy="group", group_size=2)
    assert values(opened(ROW, config_of(wide, group(**INT4)))).tolist() == [[14.0, -16.0, 4.0, 0.0]]


REFUSED = {
    "two groups fit": (
        {},
        config_of(group(["A"], **INT4), group(["B"], num_bits=8, strategy="channel")),
        "tensor `m.weight_packed`: 2 groups of `quantization_config` fit it; name it in one's targets",
    ),
    "no scale": (
        {"weight_scale": None},
        config_of(group(**INT4)),
        "tensor `m.weight_packed`: needs `m.weight_scale`, which is in no file",
    ),
    "no shape": (
        {"weight_shape": None},
        config_of(group(**INT4)),
        "tensor `m.weight_packed`: needs `m.weight_shape`, which is in no file",
    ),
    "no zero point": (
        {},
        config_of(group(symmetric=False, **INT4)),
        "tensor `m.weight_packed`: needs `m.weight_zero_point`, which is in no file",
    ),
    "no order": (
        {},
        config_of(group(actorder="group", **INT4)),
        "tensor `m.weight_packed`: needs `m.weight_g_idx`, which is in no file",
    ),
    "scales of another shape": (
        {},
        config_of(group(num_bits=4, strategy="group", group_size=2)),
        "tensor `m.weight_scale`: must be F16 or BF16 or F32 (1, 2) for `m.weight_packed`, got F32 (1, 1)",
    ),
    "integer scales": (
        {"weight_scale": torch.ones(1, 1, dtype=torch.int64)},
        config_of(group(**INT4)),
        "tensor `m.weight_scale`: must be F16 or BF16 or F32 (1, 1) for `m.weight_packed`, got I64 (1, 1)",
    ),
    "codes of another width": (
        {"weight_shape": torch.tensor([1, 32])},
        config_of(group(num_bits=3, strategy="channel")),
        "tensor `m.weight_packed`: must be I32 (1, 3) for 3-bit integers of shape (1, 32), got I32 (1, 1);"
        " libraries before 2026 packed this width otherwise: save it anew with a current one",
    ),
    "a shape of nothing": (
        {"weight_shape": torch.tensor([0, 4])},
        config_of(group(**INT4)),
        "tensor `m.weight_shape`: must hold a matrix's shape, got (0, 4)",
    ),
    "the weight beside its codes": (
        {"weight": torch.ones(1, 4)},
        config_of(group(**INT4)),
        "tensor `m.weight_packed`: stands for `m.weight`, which is stored too; remove one of them",
    ),
    "scales without codes": (
        {"m.other.weight_scale": torch.ones(1)},
        config_of(group(**INT4)),
        "tensor `m.other.weight_scale`: is F32 (1,), part of no quantized weight that is known",
    ),
    "floats said to be integers": (
        {
            "m.other.weight": torch.ones(1, 4).to(torch.float8_e4m3fn),
            "m.other.weight_scale": torch.ones(1, 1),
        },
        config_of(group(num_bits=8, strategy="channel"), form="int-quantized"),
        "tensor `m.other.weight`: is said to hold 8-bit int codes, got F8_E4M3 (1, 4)",
    ),
    "nothing quantizes weights": (
        {},
        config_of({"targets": ["Linear"], "weights": None}),
        "tensor `m.weight_packed`: no group of `quantization_config` has `weights`",
    ),
    "another format": (
        {},
        config_of(group(**INT4), form="nvfp4-pack-quantized"),
        "`quantization_config.config_groups.group_0`: format `nvfp4-pack-quantized` is not decoded, known:"
        " `pack-quantized`, `int-quantized`, `float-quantized`, `naive-quantized`",
    ),
    "sparsity": (
        {},
        config_of(group(**INT4), sparsity_config={"format": "sparse-24-bitmask"}),
        "`quantization_config.sparsity_config`: sparse weights are not decoded",
    ),
    "rotations": (
        {},
        config_of(group(**INT4), transform_config={"config_groups": {"R1": {}}}),
        "`quantization_config.transform_config`: weights that were rotated are not decoded",
    ),
    "a key that is not known": (
        {},
        config_of(group(codebook="e8", **INT4)),
        "`quantization_config.config_groups.group_0.weights.codebook`: extra inputs are not permitted, got 'e8'",
    ),
    "a group of no size": (
        {},
        config_of(group(num_bits=4, strategy="group")),
        "`quantization_config.config_groups.group_0.weights`: `strategy: group` needs a `group_size` of at least"
        " 1, got None, got {'num_bits': 4, 'strategy': 'group'}",
    ),
    "an expression that takes too long": (
        {},
        config_of(group(["re:(a+)+b"], **INT4)),
        "`quantization_config.config_groups.group_0.targets.0`: a repetition of what leaves a choice takes too"
        " long; unnest it, got 're:(a+)+b'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_together_is_refused_by_name(opened, case):
    changes, config, wanted = REFUSED[case]
    tensors = {name: value for name, value in (ROW | changes).items() if value is not None}
    with pytest.raises(CheckpointError) as caught:
        opened(tensors, config)
    headline, *lines = str(caught.value).splitlines()
    assert headline.startswith("memory: its quantized tensors cannot be decoded")
    assert lines == [f"memory: {wanted}"]


def test_all_findings_are_reported_at_once(opened):
    broken = {name: value for name, value in ROW.items() if name != "weight_scale"}
    tensors = broken | {f"m.b.{name}": value.clone() for name, value in broken.items()}
    with pytest.raises(CheckpointError) as caught:
        opened(tensors, config_of(group(**INT4)))
    assert [line.partition("needs ")[2] for line in str(caught.value).splitlines()[1:]] == [
        "`m.weight_scale`, which is in no file",
        "`m.b.weight_scale`, which is in no file",
    ]


def test_an_order_that_names_no_group_is_an_error_when_it_is_read(opened, values):
    order = torch.tensor([0, 1, 2, 0], dtype=torch.int32)
    tensors = ROW | {"weight_scale": torch.tensor([[2.0, 3.0]]), "weight_g_idx": order}
    found = opened(tensors, config_of(group(num_bits=4, strategy="group", group_size=2)))
    with pytest.raises(CheckpointError) as caught:
        values(found)
    assert str(caught.value) == (
        "memory: tensor `m.weight_g_idx`: names groups 0 to 2, there are 2; the file is damaged, fetch it anew"
    )


def test_the_first_writers_key_is_understood(opened, values):
    config = config_of(group(**INT4))
    old = copy.deepcopy(config["quantization_config"])
    del old["quant_method"]
    found = opened(ROW, {"compression_config": old, "model_type": "llama"})
    assert values(found).tolist() == [[14.0, -16.0, 4.0, 0.0]]
    assert found.config == {"model_type": "llama"}
