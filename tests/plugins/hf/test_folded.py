from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.checkpoint.open import open_checkpoint
from surgery_hf import folded
from surgery_hf.adapters import fold
from tests.plugins.hf.conftest import read

Write = Callable[..., Path]


def filled(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(module: str, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}


def test_the_scaled_product_is_added(adapter: Write):
    folder = adapter(pair("q", torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [2.0]])))  # alpha 2, rank 1
    found = read(fold(folder, MemoryCheckpoint({"q.weight": torch.ones(2, 2)})), "q.weight")
    assert found.tolist() == [[7, 9], [13, 17]]


def test_a_transposed_weight_gets_the_transposed_product(adapter: Write):
    factors = pair("q", torch.tensor([[3.0, 4.0, 5.0]]), torch.tensor([[1.0], [2.0]]))
    base = MemoryCheckpoint({"q.weight": torch.zeros(3, 2)})
    assert read(fold(adapter(factors, fan_in_fan_out=True), base), "q.weight").tolist() == [
        [6, 12],
        [8, 16],
        [10, 20],
    ]


def test_an_embedding_gets_the_transposed_product_and_the_table_beside_it_goes_first(adapter: Write):
    factors = {
        "e.lora_embedding_A": torch.tensor([[1.0, 2, 3]]),
        "e.lora_embedding_B": torch.tensor([[10.0], [20]]),
    }
    base = MemoryCheckpoint({"e.weight": torch.zeros(3, 2)})
    assert read(fold(adapter(factors), base), "e.weight").tolist() == [[20, 40], [40, 80], [60, 120]]
    beside = {**factors, "e.base_layer.weight": torch.ones(3, 2)}
    assert read(fold(adapter(beside), base), "e.weight").tolist() == [[21, 41], [41, 81], [61, 121]]


def test_dora_gives_every_row_of_the_sum_its_length(adapter: Write):
    tensors = {
        **pair("q", torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0], [1.5]])),
        "q.lora_magnitude_vector": torch.tensor([10.0, 1.0]),
    }
    base = MemoryCheckpoint({"q.weight": torch.tensor([[3.0, 4.0], [0.0, 4.0]])})
    expected = torch.tensor([[6.0, 8.0], [0.6, 0.8]])  # rows of lengths 5 and 5
    assert torch.equal(read(fold(adapter(tensors, use_dora=True), base), "q.weight"), expected)


def test_dora_of_a_transposed_weight_gives_every_column_its_length(adapter: Write):
    tensors = {
        **pair("q", torch.tensor([[0.0, 1.5]]), torch.tensor([[1.0], [0.0]])),  # scale 2: 3 at [1, 0]
        "q.lora_magnitude_vector": torch.tensor([10.0, 1.0]),
    }
    base = MemoryCheckpoint({"q.weight": torch.tensor([[4.0, 3.0], [0.0, 4.0]])})
    found = read(fold(adapter(tensors, use_dora=True, fan_in_fan_out=True), base), "q.weight")
    torch.testing.assert_close(found, torch.tensor([[8.0, 0.6], [6.0, 0.8]]))  # columns of lengths 5 and 5


def test_biases_are_added_scaled_or_replaced(adapter: Write):
    base = MemoryCheckpoint({"q.weight": torch.zeros(2, 1), "q.bias": torch.ones(2)})
    factors = pair("q", torch.zeros(1, 1), torch.zeros(2, 1))
    added = fold(adapter({**factors, "q.lora_B.bias": torch.tensor([1.0, 2.0])}, lora_bias=True), base)
    assert read(added, "q.bias").tolist() == [3, 5]
    for name in ("q.bias", "q.base_layer.bias"):
        replaced = fold(adapter({**factors, name: torch.tensor([7.0, 8.0])}), base)
        assert read(replaced, "q.bias").tolist() == [7, 8]


def test_saved_modules_take_the_place_of_the_bases(adapter: Write):
    base = MemoryCheckpoint({"norm.weight": torch.ones(2, dtype=torch.bfloat16), "x": torch.ones(1)})
    found = fold(adapter({"norm.weight": torch.tensor([0.1, 2.0])}), base)
    assert torch.equal(read(found, "norm.weight"), torch.tensor([0.1, 2.0]))
    assert dict(found.native) == {"norm.weight": "BF16"}
    assert found.tensors["x"] == base.tensors["x"]


@pytest.mark.parametrize(
    ("stored", "factors", "read_as"),
    [
        (torch.bfloat16, torch.float32, "F32"),
        (torch.float16, torch.bfloat16, "F32"),
        (torch.float32, torch.float16, "F32"),
        (torch.float64, torch.float32, "F64"),
        (torch.bfloat16, torch.float64, "F64"),
    ],
)
def test_a_fold_is_float32_or_wider_and_at_home_in_the_bases_dtype(adapter: Write, stored, factors, read_as):
    W, A, B = filled(6, 5).to(stored), filled(2, 5, seed=1).to(factors), filled(6, 2, seed=2).to(factors)
    found = fold(adapter(pair("q", A, B), r=2), MemoryCheckpoint({"q.weight": W}))
    assert found.tensors["q.weight"].dtype == read_as
    assert found.native["q.weight"] == {torch.bfloat16: "BF16", torch.float16: "F16"}.get(stored, read_as)
    exact = W.double() + B.double() @ A.double()
    error = (read(found, "q.weight").double() - exact).abs().max()
    assert error < (1e-6 if read_as == "F32" else 1e-14)


def wide(adapter: Write, kind: str) -> Checkpoint:
    """Return a fold of a matrix of several blocks, whose rows do not divide them."""
    rows, columns, rank = 150, 700, 5
    tensors = {**pair("q", filled(rank, columns, seed=1), filled(rows, rank, seed=2))}
    config: dict[str, Any] = {"r": rank, "lora_alpha": 3}
    if kind == "dora":
        tensors["q.lora_magnitude_vector"] = filled(rows, seed=3).abs()
        config["use_dora"] = True
    if kind in ("transposed", "transposed dora"):
        tensors = pair("q", filled(rank, rows, seed=1), filled(columns, rank, seed=2))
        config["fan_in_fan_out"] = True
    if kind == "transposed dora":
        tensors["q.lora_magnitude_vector"] = filled(columns, seed=3).abs()
        config["use_dora"] = True
    return fold(adapter(tensors, **config), MemoryCheckpoint({"q.weight": filled(rows, columns).bfloat16()}))


def stretch(checkpoint: Checkpoint, start: int, size: int) -> bytes:
    buffer = bytearray(size)
    checkpoint.read_into("q.weight", start, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("kind", ["plain", "transposed", "dora", "transposed dora"])
def test_any_range_has_the_bytes_of_the_whole(adapter: Write, kind: str):
    checkpoint = wide(adapter, kind)
    size = checkpoint.tensors["q.weight"].nbytes
    whole = stretch(checkpoint, 0, size)

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, size), st.integers(0, size))
    def check(start: int, length: int) -> None:
        length = min(length, size - start)
        assert stretch(checkpoint, start, length) == whole[start : start + length]

    check()
    row = 4 * 700
    assert b"".join(stretch(checkpoint, at, row) for at in range(0, size, row)) == whole
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert stretch(wide(adapter, kind), 0, size) == whole
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("start", "length"), [(-1, 4), (0, 420001), (420000, 1)])
def test_bytes_outside_a_tensor_are_not_read(adapter: Write, start: int, length: int):
    with pytest.raises(ValueError, match="of 420000"):
        stretch(wide(adapter, "plain"), start, length)


def test_many_threads_read_the_same_bytes(adapter: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folded, "CACHE_BYTES", 0)  # every tensor drives out the one before
    names = [f"l{i}" for i in range(4)]
    tensors = {k: v for n in names for k, v in pair(n, filled(1, 30, seed=1), filled(20, 1, seed=2)).items()}
    checkpoint = fold(adapter(tensors), MemoryCheckpoint({f"{n}.weight": filled(20, 30) for n in names}))
    expected = read(checkpoint, "l0.weight")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: read(checkpoint, f"{names[i % 4]}.weight"), range(80)))
    assert all(torch.equal(tensor, expected) for tensor in found)


def test_the_factors_of_the_last_tensors_are_kept_within_bounds(
    adapter: Write, monkeypatch: pytest.MonkeyPatch
):
    tensors = {k: v for n in "abc" for k, v in pair(n, filled(1, 100), filled(4, 1)).items()}
    checkpoint = fold(adapter(tensors), MemoryCheckpoint({f"{n}.weight": filled(4, 100) for n in "abc"}))
    assert isinstance(checkpoint, folded.FoldedCheckpoint)
    assert checkpoint.whole_file_bytes() == 3 * 800  # at eight bytes a number
    monkeypatch.setattr(folded, "CACHE_BYTES", 900)
    for name in "abca":
        read(checkpoint, f"{name}.weight")
    assert list(checkpoint._cache) == ["c.weight", "a.weight"]
    assert checkpoint.whole_file_bytes() == 900


@pytest.fixture
def on_disk(adapter: Write, tmp_path: Path) -> tuple[Path, Path]:
    from safetensors.torch import save_file

    save_file({"q.weight": filled(4, 3), "n.weight": filled(3)}, tmp_path / "base.safetensors")
    tensors = {**pair("q", filled(1, 3), filled(4, 1)), "n.weight": filled(3, seed=9)}
    return tmp_path / "base.safetensors", adapter(tensors)


def opened(base: Path, adapter: Path) -> Checkpoint:
    return fold(adapter, open_checkpoint(str(base), base.parent))


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))


def test_identities_change_with_every_file_and_every_number_they_rest_on(on_disk: tuple[Path, Path]):
    base, adapter = on_disk
    names = ("q.weight", "n.weight")
    first = [opened(base, adapter).identity(name) for name in names]
    assert [opened(base, adapter).identity(name) for name in names] == first
    touch(base)
    second = [opened(base, adapter).identity(name) for name in names]
    assert (second[0] != first[0], second[1] == first[1]) == (True, True)  # the norm is the adapter's alone
    touch(adapter / "adapter_model.safetensors")
    third = [opened(base, adapter).identity(name) for name in names]
    assert third[0] != second[0]
    assert third[1] != second[1]
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 2', '"lora_alpha": 4'))
    fourth = [opened(base, adapter).identity(name) for name in names]
    assert (fourth[0] != third[0], fourth[1] == third[1]) == (True, True)


def test_what_is_not_computed_lies_where_it_is_stored(on_disk: tuple[Path, Path]):
    base, adapter = on_disk
    checkpoint = opened(base, adapter)
    assert checkpoint.extent("q.weight") is None
    extent = checkpoint.extent("n.weight")
    assert extent is not None
    assert extent.file == str(adapter / "adapter_model.safetensors")
    assert [part.location for part in checkpoint.parts()][:2] == [
        str(base),
        str(adapter / "adapter_model.safetensors"),
    ]
    checkpoint.prefetch("q.weight", 0, 48)
    checkpoint.close()
    with pytest.raises(ValueError, match="read after close"):
        read(checkpoint, "q.weight")


class Told(MemoryCheckpoint):
    """Remembers what it is told to expect."""

    expected: tuple[str, ...] = ()

    def expect(self, names: Any) -> None:
        self.expected = tuple(names)

    def doing(self) -> str:
        return "fetching"


def test_base_and_adapter_are_told_what_will_be_read():
    from surgery_hf.peft_edits import Edit
    from surgery_hf.peft_lora import Update

    base = Told({"q": filled(2, 2), "n": filled(2), "x": filled(1)})
    adapter = Told({"a": filled(1, 2), "b": filled(2, 1), "n2": filled(2)})
    edits = {"q": Edit(update=Update("b", 1.0, "a")), "n": Edit("n2")}
    checkpoint = folded.FoldedCheckpoint(base, adapter, edits)
    checkpoint.expect(["q", "n", "x"])
    assert (base.expected, adapter.expected) == (("q", "x"), ("a", "b", "n2"))
    assert checkpoint.doing() == "fetching"
