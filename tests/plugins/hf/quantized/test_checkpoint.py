"""The view: ranges, bounded reads, identities, what passes through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.tensors import nbytes
from surgery_hf import surgery_decode_checkpoint
from surgery_hf.quantized import tiles

ROWS, COLUMNS = 50, 72


class Watched(MemoryCheckpoint):
    """Notes what is read."""

    reads: list[tuple[str, int, int]]

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        self.reads.append((name, start, buffer.nbytes))
        super().read_into(name, start, buffer)


@pytest.fixture(params=["symmetric", "asymmetric", "fp8", "nf4", "int8"])
def stored(request, compress, weight) -> Watched:
    """A matrix of 50 x 72 in each of the layouts, and a norm."""
    full = weight(ROWS, COLUMNS)
    config = {"model_type": "llama"}
    if request.param == "nf4":
        import bitsandbytes.functional as bnb

        codes, state = bnb.quantize_4bit(full, quant_type="nf4", compress_statistics=True)
        tensors = {"weight": codes} | {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    elif request.param == "int8":
        tensors = {"weight": (full * 30).to(torch.int8), "SCB": weight(ROWS).abs()}
    elif request.param == "fp8":
        tensors = {"weight": full.to(torch.float8_e4m3fn), "weight_scale_inv": weight(4, 5)}
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    else:
        tensors, _, config = compress(
            "pack-quantized",
            full,
            num_bits=3,
            strategy="group",
            group_size=24,
            symmetric=request.param == "symmetric",
        )
    named = {f"m.{name}": value for name, value in tensors.items()} | {"norm": torch.ones(3)}
    found = Watched(named, config)
    found.reads = []
    return found


def test_any_range_of_bytes_is_a_part_of_the_whole(stored, values):
    view = surgery_decode_checkpoint(stored)
    whole = values(view).numpy().tobytes()
    last = len(whole)

    @given(st.integers(0, last), st.integers(0, last))
    @settings(max_examples=60, deadline=None)
    def check(one: int, other: int) -> None:
        start, stop = sorted((one, other))
        part = bytearray(stop - start)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiles, "MOST", 100 if one % 2 else 1000)
            view.read_into("m.weight", start, memoryview(part))
        assert bytes(part) == whole[start:stop]

    check()


def test_a_range_reads_no_more_than_the_rows_that_it_touches(stored):
    view = surgery_decode_checkpoint(stored)
    stored.reads.clear()
    view.read_into("m.weight", 4 * COLUMNS * 20, memoryview(bytearray(4 * COLUMNS * 2)))
    codes = stored.reads[0][0]
    spec = stored.tensors[codes]
    read = sum(size for name, _, size in stored.reads if name == codes)
    assert read == spec.nbytes * 2 // ROWS
    others = sum(size for name, _, size in stored.reads if name not in (codes, "m.weight.nested_quant_map"))
    # two rows of scales, and zero points from the last full word on: far from all of it
    assert others <= 200


def test_what_a_tile_takes_does_not_grow_with_the_range(stored, monkeypatch):
    monkeypatch.setattr(tiles, "MOST", 5 * COLUMNS)
    view = surgery_decode_checkpoint(stored)
    stored.reads.clear()
    view.read_into("m.weight", 0, memoryview(bytearray(view.tensors["m.weight"].nbytes)))
    codes = stored.reads[0][0]
    sizes = [size for name, _, size in stored.reads if name == codes]
    assert len(sizes) == 10
    assert max(sizes) <= nbytes(5 * COLUMNS, "F8_E4M3")


def test_reading_past_the_end_is_refused(stored):
    view = surgery_decode_checkpoint(stored)
    total = 4 * ROWS * COLUMNS
    with pytest.raises(ValueError, match=f"m.weight: bytes {total - 4} to {total + 4} of {total}"):
        view.read_into("m.weight", total - 4, memoryview(bytearray(8)))


def test_the_view_shows_what_the_parts_stand_for(stored):
    view = surgery_decode_checkpoint(stored)
    assert {name: (spec.dtype, spec.shape) for name, spec in view.tensors.items()} == {
        "m.weight": ("F32", (ROWS, COLUMNS)),
        "norm": ("F32", (3,)),
    }
    assert view.config == {"model_type": "llama"}
    norm = bytearray(12)
    view.read_into("norm", 0, memoryview(norm))
    assert torch.frombuffer(norm, dtype=torch.float32).tolist() == [1.0, 1.0, 1.0]
    assert view.identity("norm") == stored.identity("norm")


def test_the_wrapped_reader_is_told_what_will_be_read(stored, monkeypatch):
    """One of the Hub then fetches several files ahead, and of a file that is hardly needed only some tensors."""
    told = []
    monkeypatch.setattr(Watched, "expect", lambda self, names: told.extend(names))
    view = surgery_decode_checkpoint(stored)
    view.expect(["norm", "m.weight"])
    assert told[0] == "norm"
    assert set(told[1:]) == {name for name, _, _ in _reads_of_all(stored, view)}
    assert view.parts() == (stored, view)


def test_the_identity_changes_with_every_part(stored):
    view = surgery_decode_checkpoint(stored)
    before = view.identity("m.weight")
    assert before == surgery_decode_checkpoint(stored).identity("m.weight")
    parts = {name for name, _, _ in _reads_of_all(stored, view)}
    assert len(parts) >= 2
    for part in parts:
        data = stored._data[part]
        stored._data[part] = memoryview(bytes(data[:-1]) + bytes([data[-1] ^ 1]))
        assert view.identity("m.weight") != before
        stored._data[part] = data
    assert view.identity("m.weight") == before


def _reads_of_all(stored: Watched, view) -> list[tuple[str, int, int]]:
    stored.reads.clear()
    view.read_into("m.weight", 0, memoryview(bytearray(view.tensors["m.weight"].nbytes)))
    return stored.reads


def test_the_identity_changes_with_how_the_parts_are_decoded():
    tensors = {"weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(2, 2)}
    digests = set()
    for block in ([2, 2], [2, 3], [3, 3]):
        config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": block}}
        stored = MemoryCheckpoint({f"m.{name}": value for name, value in tensors.items()}, config)
        digests.add(surgery_decode_checkpoint(stored).identity("m.weight"))
    assert len(digests) == 3
