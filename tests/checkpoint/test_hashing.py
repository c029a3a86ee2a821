from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from surgery.checkpoint.hashing import PIECE, PieceHasher, hash_stretch


def _hash(data: bytes, piece: int) -> str:
    return hash_stretch(
        lambda start, buffer: buffer.__setitem__(slice(None), data[start : start + len(buffer)]),
        len(data),
        piece,
    )


def test_the_hash_is_xxh3_of_the_digests_of_the_pieces():
    digests = xxhash.xxh3_128_digest(b"abcd") + xxhash.xxh3_128_digest(b"ef")
    assert _hash(b"abcdef", 4) == xxhash.xxh3_128_hexdigest(digests)


def test_the_hash_of_nothing_is_xxh3_of_nothing():
    assert _hash(b"", 4) == xxhash.xxh3_128_hexdigest(b"") == "99aa06d3014798d86001c324468d497f"


def test_pieces_are_sixteen_mebibytes_unless_said_otherwise():
    assert PIECE == 16 * 1024 * 1024
    data = bytes(PIECE) + b"x"
    digests = xxhash.xxh3_128_digest(bytes(PIECE)) + xxhash.xxh3_128_digest(b"x")
    assert _hash(data, PIECE) == xxhash.xxh3_128_hexdigest(digests)
    assert PieceHasher(len(data)).size_of(1) == 1


@given(st.binary(max_size=50), st.integers(1, 9), st.randoms())
def test_pieces_may_come_in_any_order(data, piece, random):
    hasher = PieceHasher(len(data), piece)
    order = list(range(-(-len(data) // piece)))
    random.shuffle(order)
    for index in order:
        hasher.add(index, memoryview(data)[index * piece : (index + 1) * piece])
    assert hasher.complete
    assert hasher.hexdigest() == _hash(data, piece)


def test_pieces_may_come_from_many_threads():
    data = memoryview(bytes(range(256)) * 4096)
    hasher = PieceHasher(len(data), 1024)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: hasher.add(i, data[i * 1024 : (i + 1) * 1024]), range(1024)))
    assert hasher.hexdigest() == _hash(bytes(data), 1024)


@given(st.binary(min_size=1, max_size=50), st.integers(1, 9), st.data())
def test_any_changed_byte_changes_the_hash(data, piece, draw):
    changed = bytearray(data)
    changed[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    assert _hash(data, piece) != _hash(bytes(changed), piece)


def test_missing_pieces_and_pieces_of_the_wrong_size_are_errors():
    hasher = PieceHasher(10, 4)
    hasher.add(2, memoryview(b"ij"))
    assert not hasher.complete
    with pytest.raises(ValueError, match=r"^2 of 3 pieces are missing$"):
        hasher.hexdigest()
    with pytest.raises(ValueError, match=r"^piece 1 has 4 bytes, got 3$"):
        hasher.add(1, memoryview(b"efg"))
    with pytest.raises(IndexError, match=r"^piece 3 of 3$"):
        hasher.add(3, memoryview(b""))
