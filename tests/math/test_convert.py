from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.errors import OpError
from surgery.math.convert import OverflowCount, as_tensor, decode, encode, torch_dtype
from surgery.tensors import DTYPES, nbytes

INF = float("inf")
# bits of the significand, exponent of the smallest denormal, largest finite number
FORMATS = {
    "BF16": (8, -133, (2 - 2.0**-7) * 2.0**127),
    "F16": (11, -24, 65504.0),
    "F32": (24, -149, (2 - 2.0**-23) * 2.0**127),
}


def encoded(x: Tensor, tag: str) -> tuple[Tensor, OverflowCount | None]:
    out = torch.empty(nbytes(x.numel(), tag), dtype=torch.uint8)
    return out, encode(x, tag, out)


def decoded(raw: Tensor | bytes | bytearray | memoryview, tag: str, size: int) -> list[float]:
    out = torch.empty(size)
    decode(raw, tag, out)
    return out.tolist()


def nearest(value: float, step: Fraction) -> Fraction:
    return round(Fraction(value) / step) * step  # Python rounds halves to even


def rounded(value: float, tag: str) -> float:
    """Round to nearest, ties to even, in exact arithmetic."""
    digits, smallest, largest = FORMATS[tag]
    if value == 0.0 or not math.isfinite(value):
        return value
    near = nearest(value, Fraction(2) ** max(math.frexp(value)[1] - digits, smallest))
    return math.copysign(float(near) if abs(near) <= largest else INF, value)


def test_known_bytes_become_known_numbers() -> None:
    assert decoded(bytes.fromhex("803f00c0 8000 0080"), "BF16", 4) == [1.0, -2.0, 2.0**-126, -0.0]
    assert decoded(bytes.fromhex("003c00c00100"), "F16", 3) == [1.0, -2.0, 2.0**-24]
    assert decoded(bytes.fromhex("0000803f"), "F32", 1) == [1.0]
    assert decoded(bytes.fromhex("000000000000f0bf"), "F64", 1) == [-1.0]


def test_known_numbers_become_known_bytes() -> None:
    x = torch.tensor([1.0, -2.0])
    assert bytes(encoded(x, "BF16")[0].tolist()).hex() == "803f00c0"
    assert bytes(encoded(x, "F16")[0].tolist()).hex() == "003c00c0"
    assert bytes(encoded(x, "F32")[0].tolist()).hex() == "0000803f000000c0"
    assert bytes(encoded(x, "F64")[0].tolist()).hex() == "000000000000f03f00000000000000c0"


def test_a_tie_goes_to_the_even_neighbour() -> None:
    x = torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20])
    assert decoded(encoded(x, "BF16")[0], "BF16", 3) == [1.0, 1 + 2.0**-6, 1 + 2.0**-7]


@given(st.sampled_from(["BF16", "F16"]), st.integers(0, 0xFFFF))
@settings(deadline=None)
def test_sixteen_bits_survive_the_way_there_and_back(tag: str, pattern: int) -> None:
    raw = torch.tensor([pattern & 0xFF, pattern >> 8], dtype=torch.uint8)
    out = torch.empty(1)
    decode(raw, tag, out)
    assert out.isnan() or torch.equal(encoded(out, tag)[0], raw)


@given(st.sampled_from(["BF16", "F16"]), st.floats(width=32, allow_nan=False))
@example("F16", 65520.0)
@example("F16", 65519.996)
@example("BF16", 3.3961775292304957e38)
@settings(max_examples=300, deadline=None)
def test_float32_is_rounded_once(tag: str, value: float) -> None:
    stored, overflow = encoded(torch.tensor([value]), tag)
    assert decoded(stored, tag, 1) == [rounded(value, tag)]
    became_infinite = math.isfinite(value) and math.isinf(rounded(value, tag))
    assert overflow == (OverflowCount(1, 0) if became_infinite else None)


@given(st.sampled_from(["BF16", "F16", "F32"]), st.floats(-1e39, 1e39), st.integers(-3, 3))
@example("BF16", 1 + 2.0**-8 + 2.0**-40, 0)  # by way of float32 it would be a tie and give 1
@example("F16", 1 + 2.0**-11 + 2.0**-40, 0)
@example("F16", -(1 + 3 * 2.0**-11 - 2.0**-40), 0)
@example("BF16", 3.4028234e38, 0)
@example("F32", INF, 0)
@settings(max_examples=300, deadline=None)
def test_float64_is_rounded_once_too(tag: str, value: float, steps: int) -> None:
    digits, smallest, _ = FORMATS[tag]
    half = Fraction(2) ** max(math.frexp(value)[1] - digits - 1, smallest - 1)
    near_tie = float(nearest(value, half)) if math.isfinite(value) else 1.0
    for x in (value, near_tie + steps * math.ulp(near_tie)):
        stored, overflow = encoded(torch.tensor([x], dtype=torch.float64), tag)
        out = torch.empty(1, dtype=torch.float64)
        decode(stored, tag, out)
        assert out.tolist() == [rounded(x, tag)]
        assert (overflow is not None) == (math.isfinite(x) and math.isinf(rounded(x, tag)))


def test_overflow_is_counted_and_infinity_itself_is_not() -> None:
    x = torch.tensor([[1.0, INF], [-1e5, 7e4]])
    stored, overflow = encoded(x, "F16")
    assert overflow == OverflowCount(count=2, first=2)
    assert decoded(stored, "F16", 4) == [1.0, INF, -INF, INF]
    assert encoded(x, "BF16")[1] is None
    assert encoded(torch.tensor([-1e300, float("nan")], dtype=torch.float64), "F32")[1] == OverflowCount(1, 0)
    assert encoded(torch.tensor([float("nan"), -INF]), "F16")[1] is None


def test_nan_stays_nan() -> None:
    for dtype in (torch.float32, torch.float64):
        for tag in ("BF16", "F16", "F32", "F64"):
            assert math.isnan(decoded(encoded(torch.tensor([math.nan], dtype=dtype), tag)[0], tag, 1)[0])


def test_shapes_are_filled_and_inputs_left_alone() -> None:
    x = torch.tensor([[1.5, -3.0], [0.25, 70000.0]])
    stored = torch.empty(8, dtype=torch.uint8)
    encode(x, "BF16", stored)
    before, out = stored.clone(), torch.empty(2, 2, dtype=torch.float64)
    decode(stored, "BF16", out)
    assert out.tolist() == [[1.5, -3.0], [0.25, 70144.0]]
    assert torch.equal(stored, before)
    assert x.tolist() == [[1.5, -3.0], [0.25, 70000.0]]


def test_bytes_for_another_number_of_elements_are_refused() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        decode(bytes(2), "BF16", torch.empty(3))


def test_nothing_is_nothing() -> None:
    assert decoded(b"", "BF16", 0) == []
    assert encoded(torch.empty(0), "F16")[1] is None
    assert as_tensor(bytearray(), "I64").shape == (0,)


def test_a_writable_buffer_is_shared_and_a_readonly_one_is_copied() -> None:
    buffer = bytearray(4)
    as_tensor(memoryview(buffer), "F32").fill_(1.0)
    assert buffer.hex() == "0000803f"
    frozen = bytes(buffer)
    as_tensor(frozen, "F32").fill_(2.0)
    assert frozen.hex() == "0000803f"


def test_bytes_at_odd_addresses_are_read() -> None:
    buffer = bytearray.fromhex("ff 803f 00c0 00")
    assert decoded(memoryview(buffer)[1:5], "BF16", 2) == [1.0, -2.0]
    raw = torch.frombuffer(buffer, dtype=torch.uint8)
    assert as_tensor(raw[1:5], "BF16").tolist() == [1.0, -2.0]


@pytest.mark.parametrize("tag", [tag for tag, dtype in DTYPES.items() if dtype.arithmetic])
def test_stored_floats_have_torch_dtypes_of_their_size(tag: str) -> None:
    assert torch_dtype(tag).itemsize * 8 == DTYPES[tag].bits
    assert str(torch_dtype(tag)) == f"torch.{DTYPES[tag].torch}"


def test_other_tensors_are_viewed_but_not_computed_with() -> None:
    assert as_tensor(bytes([1, 0, 255, 255]), "I16").tolist() == [1, -1]
    assert as_tensor(bytes([1, 0]), "BOOL").tolist() == [True, False]
    with pytest.raises(OpError) as refused:
        decode(bytes(1), "F8_E4M3", torch.empty(1))
    assert str(refused.value) == (
        "decode: `F8_E4M3` holds no numbers by itself; use one of `F64`, `F32`, `F16`, `BF16`"
    )
    with pytest.raises(OpError, match=r"^encode: `I8` holds no numbers by itself; "):
        encode(torch.empty(1), "I8", torch.empty(1, dtype=torch.uint8))
    with pytest.raises(OpError) as unknown:
        torch_dtype("F6_E2M3")
    assert (
        str(unknown.value)
        == f"dtype `F6_E2M3`: torch {torch.__version__} has no such dtype; copy its bytes instead"
    )


def test_masks_are_0_and_1_in_memory_and_truth_values_in_files():
    stored = torch.empty(3, dtype=torch.uint8)
    assert encode(torch.tensor([1.0, 0.0, 1.0]), "BOOL", stored) is None
    assert stored.tolist() == [1, 0, 1]
    out = torch.empty(3)
    decode(stored, "BOOL", out)
    assert out.tolist() == [1, 0, 1]
