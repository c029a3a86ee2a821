from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.plan.virtual import from_checkpoint
from surgery.report import compare as module
from surgery.report.compare import Difference, Numbers, compare, totals
from surgery.tensors import TensorSpec


def model(**tensors):
    config = tensors.pop("config", {})
    return from_checkpoint(
        "m", MemoryCheckpoint({k.replace("__", "."): v for k, v in tensors.items()}, config), []
    )


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def one(a, b) -> Difference:
    (difference,) = compare(model(w=a), model(w=b))
    return difference


def test_numbers_that_a_reader_can_check():
    found = one(f32(3, 4, 0, 0), f32(3, 4, 0, 2))
    assert found == Difference(
        "w",
        "values",
        TensorSpec("w", (4,), "F32"),
        TensorSpec("w", (4,), "F32"),
        # ‖(0, 0, 0, 2)‖ = 2 and ‖(3, 4, 0, 0)‖ = 5
        Numbers(max_abs=2.0, mean_abs=0.5, relative=0.4, share=0.25, nonfinite=0),
    )


def test_equal_bytes_are_the_same():
    assert one(f32(1, math.nan), f32(1, math.nan)).kind == "same"


def test_zeros_of_two_signs_differ_in_bytes_alone():
    found = one(f32(0.0, 1), f32(-0.0, 1))
    assert (found.kind, found.numbers) == ("values", Numbers())


def test_a_difference_from_zero_is_infinite():
    assert one(f32(0, 0), f32(0, 1)).numbers == Numbers(1.0, 0.5, math.inf, 0.5)
    assert one(f32(0, 0), f32(0, 1)).record()["relative"] is None


def test_gaps_that_are_not_finite_are_counted_apart():
    found = one(f32(1, math.inf, math.nan, 2), f32(1, -math.inf, 5, 1))
    # without them: gap 1 of norm √(1 + 4)
    assert found.numbers == Numbers(1.0, 0.25, pytest.approx(1 / math.sqrt(5)), 0.75, 2)


def test_equal_infinities_do_not_differ():
    assert one(f32(math.inf, 1), f32(math.inf, 2)).numbers == Numbers(1.0, 0.5, 1.0, 0.5)


def test_other_dtypes_are_compared_by_value():
    found = one(f32(1, 2), np.array([1, 2.5], np.float16))
    assert (found.kind, found.numbers.max_abs, found.numbers.share) == ("dtype", 0.5, 0.5)
    assert one(f32(1, 2), np.array([1, 2], np.float16)).numbers == Numbers()


def test_numbers_too_large_to_square_are_still_json():
    found = one(np.array([1e200, 0]), np.array([0, 1e200]))
    assert found.record()["max_abs"] == 1e200
    assert found.record()["relative"] is None


def test_integers_have_a_share_and_no_arithmetic():
    found = one(np.array([1, 2, 300, 4]), np.array([1, 2, 301, 5]))
    assert (found.kind, found.numbers) == ("values", Numbers(None, None, None, 0.5))


def test_integers_and_floats_are_not_compared():
    found = one(np.array([1, 2], np.int32), f32(1, 2))
    assert (found.kind, found.numbers) == ("dtype", None)


def test_shapes_and_missing_names_are_said():
    a = model(both=f32(1), mine=f32(1), w=f32(1, 2))
    b = model(both=f32(1), w=np.zeros((2, 1), np.float32), theirs=f32(1))
    kinds = {difference.name: difference.kind for difference in compare(a, b)}
    assert kinds == {"both": "same", "mine": "only in a", "w": "shape", "theirs": "only in b"}
    assert totals(list(compare(a, b))) == {"same": 1, "only in a": 1, "shape": 1, "only in b": 1}


def test_tensors_without_elements_are_the_same():
    assert one(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)).kind == "same"
    assert one(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float16)).numbers == Numbers()


def test_a_shared_tensor_counts_as_both_of_its_names():
    shared = f32(1, 2)
    tied = from_checkpoint("m", MemoryCheckpoint({"embed": shared, "head": shared}), [])
    apart = from_checkpoint("m", MemoryCheckpoint({"embed": f32(1, 2), "head": f32(1, 3)}), [])
    assert [(d.name, d.kind) for d in compare(tied, apart)] == [("embed", "same"), ("head", "values")]


def test_what_cannot_be_compared_comes_first_then_what_differs_most():
    found = [one(f32(1), f32(1)), one(f32(1), f32(2)), one(f32(1), f32(1, 2)), one(f32(1), f32(4))]
    found.append(one(f32(1), f32(math.nan)))
    ordered = sorted(found, key=lambda difference: difference.rank, reverse=True)
    assert [(d.kind, d.numbers.max_abs if d.numbers else None) for d in ordered] == [
        ("shape", None),
        ("values", 0.0),  # not a number
        ("values", 3.0),
        ("values", 1.0),
        ("same", 0.0),
    ]


numbers = st.floats(-1e3, 1e3, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40), st.integers(1, 7))
def test_chunks_do_not_change_what_is_found(values, chunk):
    a, b = (np.array(side, np.float32) for side in zip(*values, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = one(a, b)
    gap = np.abs(a.astype(np.float64) - b)
    if found.kind == "same":
        assert (a == b).all()
        return
    assert found.numbers.max_abs == gap.max()
    assert found.numbers.mean_abs == pytest.approx(gap.mean())
    assert found.numbers.share == (gap > 0).mean()
    if a.any():
        norm = np.linalg.norm(a.astype(np.float64))
        assert found.numbers.relative == pytest.approx(np.linalg.norm(gap) / norm)


def test_memory_is_bounded_by_the_chunk(tmp_path: Path):
    import resource

    from safetensors.numpy import save_file

    from surgery.checkpoint.safetensors import SafetensorsCheckpoint

    large = np.zeros(20_000_000, np.float32)  # 80 MB, and 160 MB as float64
    save_file({"w": large}, tmp_path / "a.safetensors")
    large[-1] = 1
    save_file({"w": large}, tmp_path / "b.safetensors")
    del large
    sides = [from_checkpoint(n, SafetensorsCheckpoint(tmp_path / f"{n}.safetensors"), []) for n in "ab"]
    compare_one = next(iter(compare(*(model(w=f32(1)), model(w=f32(2))))))  # torch is loaded
    assert compare_one.kind == "values"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (found,) = compare(*sides)
    assert found.numbers is not None
    assert found.numbers.max_abs == 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
