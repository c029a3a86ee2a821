from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.math.random import (
    Stream,
    _philox,
    keep,
    keep_on_device,
    normal,
    stream_key,
    uniform,
    uniform_on_device,
)

KEY = stream_key(7, "merge.dare", "model.embed_tokens.weight", 0)
MAX = 0xFFFFFFFFFFFFFFFF

# From `kat_vectors` of the authors' Random123: counter, key, output of philox4x64 with 10 rounds.
KNOWN = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B),
    ),
    (
        (MAX, MAX, MAX, MAX),
        (MAX, MAX),
        (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
    ),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
]


def draw(start: int, size: int, key: bytes = KEY) -> list[float]:
    return uniform(key, start, torch.empty(size)).tolist()


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_its_authors_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    as_int64 = [torch.from_numpy(np.array([word], np.uint64).view(np.int64)) for word in counter]
    assert tuple(int(word) & MAX for word in _philox(as_int64, key)) == words


def test_element_zero_is_the_low_half_of_the_first_word_of_counter_zero() -> None:
    zero = bytes(16)
    halves = [half for word in KNOWN[0][2] for half in (word & 0xFFFFFFFF, word >> 32)]
    assert draw(0, 8, zero) == [(half >> 8) / 2**24 for half in halves]


def test_a_key_is_pinned_for_ever() -> None:
    assert KEY.hex() == "dfb43599d714c45eb89a9f7466f9c159"
    assert draw(0, 3) == [9338680 / 2**24, 5782665 / 2**24, 706091 / 2**24]


def test_every_part_of_the_key_counts() -> None:
    keys = {
        stream_key(1, "a", "b", 0),
        stream_key(2, "a", "b", 0),
        stream_key(1, "ab", "", 0),
        stream_key(1, "", "ab", 0),
        stream_key(1, "a", "c", 0),
        stream_key(1, "a", "b", 1),
        stream_key(1, "a", "b", 0, version=2),
        stream_key(-1, "a", "b", 0),
    }
    assert len(keys) == 8
    assert all(len(key) == 16 for key in keys)


@given(st.integers(0, 2**60), st.integers(0, 100), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_chunks_are_parts_of_the_whole(start: int, before: int, size: int) -> None:
    whole = draw(start, before + size)
    assert draw(start, before) == whole[:before]
    assert draw(start + before, size) == whole[before:]


@pytest.mark.parametrize("start", [0, 3, 8, 16_383])
def test_pieces_join_without_a_seam(start: int) -> None:
    whole = uniform(KEY, 0, torch.empty(60_000))
    for size in (1, 16_381, 16_384, 40_000):
        assert torch.equal(uniform(KEY, start, torch.empty(size)), whole[start : start + size])


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**62), st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_torch_operations_draw_what_numpy_draws(key: bytes, start: int, size: int) -> None:
    there = uniform_on_device(key, start, torch.empty(size))
    assert there.tolist() == draw(start, size, key)


def test_float64_holds_the_same_numbers_and_any_shape_is_filled() -> None:
    wide = uniform(KEY, 5, torch.empty(3, 4, dtype=torch.float64))
    assert wide.flatten().tolist() == draw(5, 12)
    assert Stream(KEY).uniform(5, torch.empty(2, 6)).flatten().tolist() == draw(5, 12)
    assert uniform_on_device(KEY, 5, torch.empty(3, 4, dtype=torch.float64)).equal(wide)


def test_a_tensor_that_cannot_be_filled_in_place_is_refused() -> None:
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        uniform(KEY, 0, torch.empty(4, 4).t())


def test_draws_are_in_range_uniform_and_independent_of_their_neighbours() -> None:
    x = uniform(KEY, 0, torch.empty(1 << 20, dtype=torch.float64))
    assert 0.0 <= float(x.min()) < 1e-4
    assert 1 - 1e-4 < float(x.max()) < 1.0
    error = 5 / 2**10  # five standard errors of a mean of 2^20 draws, in units of one standard deviation
    assert abs(float(x.mean()) - 1 / 2) < error * 12**-0.5
    assert abs(float(x.var()) - 1 / 12) < error * 180**-0.5
    centred = x - 0.5
    for lag in (1, 2, 8):
        assert abs(float((centred[lag:] * centred[:-lag]).mean())) < error / 12


def test_streams_of_one_tensor_are_unlike_each_other() -> None:
    a, b = (
        uniform(stream_key(0, "merge.dare", "w", expert), 0, torch.empty(1 << 16, dtype=torch.float64))
        for expert in (0, 1)
    )
    assert abs(float(((a - 0.5) * (b - 0.5)).mean())) < 5 / 2**8 / 12


def test_a_key_of_the_wrong_length_is_refused() -> None:
    message = "^uniform: a key has 16 bytes, got 3; make it with `stream_key`$"
    with pytest.raises(ValueError, match=message):
        uniform(b"abc", 0, torch.empty(1))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_draws_what_the_cpu_draws() -> None:
    there = uniform(KEY, 12_345, torch.empty(70_001, device="cuda"))
    assert torch.equal(there.cpu(), uniform(KEY, 12_345, torch.empty(70_001)))


def test_two_uniform_numbers_make_a_normal_one() -> None:
    """√(-2·ln ½) = 1.17741 at angles of nothing, a quarter turn and a half."""
    first, second = torch.full((3,), 0.5, dtype=torch.float64), torch.tensor([0.0, 0.25, 0.5]).double()
    assert normal(first, second).tolist() == pytest.approx([1.1774100225, 0.0, -1.1774100225], abs=1e-9)
    assert normal(torch.zeros(1), torch.zeros(1)).tolist() == [0.0]


def test_normal_numbers_have_mean_nothing_and_deviation_one() -> None:
    pair = [uniform(stream_key(7, "op", "w", stream), 0, torch.empty(100_000).double()) for stream in (0, 1)]
    drawn = normal(*pair)
    assert abs(drawn.mean().item()) < 0.01
    assert drawn.std().item() == pytest.approx(1, abs=0.01)
    assert (drawn.abs() < 2).double().mean().item() == pytest.approx(0.9545, abs=0.003)


def kept(start: int, size: int, probability: float = 0.3, key: bytes = KEY) -> list[bool]:
    return keep(key, start, probability, torch.empty(size, dtype=torch.bool)).tolist()


def test_element_zero_is_kept_by_the_lowest_quarter_of_the_first_word() -> None:
    """The first sixteen 16-bit numbers of counter 0 of the authors' known answer, in order, against p·2^16 + v."""
    zero = bytes(16)
    quarters = [word >> shift & 0xFFFF for word in KNOWN[0][2] for shift in (0, 16, 32, 48)]
    assert quarters[0] == 0x314C
    assert kept(0, 16, 0.5, zero) == [quarter < 1 << 15 for quarter in quarters]


def test_what_is_kept_is_pinned_for_ever() -> None:
    bits = kept(32_760, 16)
    assert "".join(map(str, map(int, bits))) == "0000100110000001"


@pytest.mark.parametrize(("probability", "expected"), [(0.0, False), (1.0, True)])
def test_all_or_nothing_is_kept_for_certain(probability: float, expected: bool) -> None:
    assert kept(5, 70_000, probability) == [expected] * 70_000


@given(st.integers(0, 2**60), st.integers(0, 100), st.integers(0, 100), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_what_is_kept_in_chunks_is_part_of_what_is_kept_of_the_whole(
    start: int, before: int, size: int, probability: float
) -> None:
    whole = kept(start, before + size, probability)
    assert kept(start, before, probability) == whole[:before]
    assert kept(start + before, size, probability) == whole[before:]


@pytest.mark.parametrize("start", [0, 3, 16, 32_767])
def test_groups_join_without_a_seam(start: int) -> None:
    whole = keep(KEY, 0, 0.3, torch.empty(150_000, dtype=torch.bool))
    for size in (1, 32_765, 32_768, 100_000):
        part = keep(KEY, start, 0.3, torch.empty(size, dtype=torch.bool))
        assert torch.equal(part, whole[start : start + size])


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**62), st.integers(0, 50), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_torch_operations_keep_what_numpy_keeps(key: bytes, start: int, size: int, p: float) -> None:
    there = keep_on_device(key, start, p, torch.empty(size, dtype=torch.bool))
    assert there.tolist() == kept(start, size, p, key)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9, 1 / 3 / 2**16, 1 - 1 / 3 / 2**16])
def test_the_share_that_is_kept_is_the_probability_however_small(probability: float) -> None:
    """Five standard errors of 2^24 draws; 16 bits alone would keep none or a 65,536th of the next to last."""
    n = 1 << 24
    count = sum(
        int(keep(KEY, at, probability, torch.empty(1 << 20, dtype=torch.bool)).sum())
        for at in range(0, n, 1 << 20)
    )
    assert abs(count - n * probability) < 5 * (n * probability * (1 - probability)) ** 0.5


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_what_is_no_probability_is_refused(probability: float) -> None:
    message = f"^keep: a probability lies between 0 and 1, got {probability:g}$"
    with pytest.raises(ValueError, match=message):
        kept(0, 1, probability)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_keeps_what_the_cpu_keeps() -> None:
    there = keep(KEY, 12_345, 0.3, torch.empty(70_001, dtype=torch.bool, device="cuda"))
    assert there.tolist() == kept(12_345, 70_001)
