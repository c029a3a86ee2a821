from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.checkpoint.header import build_header
from surgery.checkpoint.layout import Place, lay_out
from surgery.errors import CheckpointError
from surgery.tensors import DTYPES, TensorSpec


def _spec(name: str, count: int, dtype: str = "U8") -> TensorSpec:
    return TensorSpec(name, (count,), dtype)


def test_one_shard_is_one_file_without_an_index():
    specs = [_spec("a", 3), _spec("b", 2, "F32")]
    layout = lay_out(specs, 1000)
    header = build_header([specs[1], specs[0]])
    start = len(header)
    assert [(shard.file, shard.header, shard.size) for shard in layout.shards] == [
        ("model.safetensors", header, start + 11)
    ]
    assert layout.places == {
        "b": Place("model.safetensors", start, 8),
        "a": Place("model.safetensors", start + 8, 3),
    }
    assert layout.total_size == 11
    assert layout.index_json is None


def test_tensors_are_ordered_by_element_size_then_as_given():
    specs = [_spec(tag, 4, tag) for tag in ("U8", "F4", "BF16", "F32", "I64", "F8_E4M3", "F64", "F16", "C64")]
    (shard,) = lay_out(specs, 1000).shards
    order = [spec.name for spec in shard.tensors]
    assert order == ["I64", "F64", "C64", "F32", "BF16", "F16", "U8", "F4", "F8_E4M3"]


def test_shards_are_filled_in_order_and_a_large_tensor_has_its_own():
    specs = [_spec("a", 4), _spec("b", 4), _spec("c", 4), _spec("large", 30), _spec("d", 1), _spec("e", 9)]
    layout = lay_out(specs, 10)
    assert [(shard.file, [spec.name for spec in shard.tensors]) for shard in layout.shards] == [
        ("model-00001-of-00004.safetensors", ["a", "b"]),
        ("model-00002-of-00004.safetensors", ["c"]),
        ("model-00003-of-00004.safetensors", ["large"]),
        ("model-00004-of-00004.safetensors", ["d", "e"]),
    ]


def test_the_index_lists_names_in_order_with_bytes_and_elements():
    layout = lay_out([_spec("b", 2, "BF16"), _spec("a", 3)], 4)
    assert layout.index_json is not None
    assert layout.index_json.decode() == (
        "{\n"
        '  "metadata": {\n'
        '    "total_parameters": 5,\n'
        '    "total_size": 7\n'
        "  },\n"
        '  "weight_map": {\n'
        '    "a": "model-00002-of-00002.safetensors",\n'
        '    "b": "model-00001-of-00002.safetensors"\n'
        "  }\n"
        "}\n"
    )


def test_the_number_of_parameters_of_packed_weights_is_what_the_caller_says():
    layout = lay_out([_spec("b", 2), _spec("a", 3)], 3, parameters=40)
    assert json.loads(layout.index_json or b"")["metadata"]["total_parameters"] == 40


def test_an_output_without_tensors_is_one_empty_file():
    layout = lay_out([], 10)
    assert [(shard.file, shard.size) for shard in layout.shards] == [
        ("model.safetensors", len(build_header([])))
    ]


def test_the_metadata_is_in_every_shard():
    layout = lay_out([_spec("b", 2), _spec("a", 3)], 3, metadata={"made_by": "x"})
    assert all(b'{"__metadata__":{"format":"pt","made_by":"x"}' in shard.header for shard in layout.shards)
    assert len(layout.shards) == 2


specs = st.lists(
    st.builds(
        TensorSpec,
        st.text("abc", min_size=1, max_size=6),
        st.lists(st.integers(0, 6), max_size=3).map(tuple),
        st.sampled_from([tag for tag, dtype in DTYPES.items() if dtype.bits >= 8]),
    ),
    max_size=12,
    unique_by=lambda spec: spec.name,
)


@given(specs, st.integers(1, 200))
def test_every_tensor_has_one_aligned_place_and_files_have_no_holes(specs, shard_size):
    layout = lay_out(specs, shard_size)
    assert set(layout.places) == {spec.name for spec in specs}
    assert layout.total_size == sum(spec.nbytes for spec in specs)
    for shard in layout.shards:
        at = len(shard.header)
        for spec in shard.tensors:
            place = layout.places[spec.name]
            assert place == Place(shard.file, at, spec.nbytes)
            assert at % (DTYPES[spec.dtype].bits // 8) == 0
            at += spec.nbytes
        assert at == shard.size
        assert len(shard.tensors) == 1 or at - len(shard.header) <= shard_size or not specs


@given(specs, st.integers(1, 200))
def test_no_shard_could_have_taken_the_next_tensor(specs, shard_size):
    shards = lay_out(specs, shard_size).shards
    for shard, after in itertools.pairwise(shards):
        assert shard.size - len(shard.header) + after.tensors[0].nbytes > shard_size


def test_wrong_sizes_and_names_are_errors():
    with pytest.raises(ValueError, match=r"^shard_size must be at least one byte, got 0$"):
        lay_out([], 0)
    with pytest.raises(ValueError, match=r"^two tensors of the output have one name: 2 tensors, 1 names$"):
        lay_out([_spec("a", 2), _spec("a", 2)], 2)
    with pytest.raises(CheckpointError, match="tensor name 'a' is reserved, used twice"):
        lay_out([_spec("a", 2), _spec("a", 2)], 4)
