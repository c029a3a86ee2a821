from __future__ import annotations

from surgery.cli.patterns import Pattern, patterns_of
from surgery.tensors import Role, TensorInfo, TensorSpec


def info(
    name: str, shape: tuple[int, ...], kind: str, layer: int | None = None, dtype: str = "F32"
) -> TensorInfo:
    return TensorInfo(TensorSpec(name, shape, dtype), Role(kind, layer))


def test_tensors_that_differ_in_numbers_alone_are_one_line():
    layers = [info(f"model.layers.{i}.mlp.up_proj.weight", (3, 2), "mlp.up", i) for i in (0, 1, 4)]
    (found,) = patterns_of(layers)
    assert found == Pattern(
        "model.layers.*.mlp.up_proj.weight", "mlp.up", (3, 2), "F32", 3, (0, 1, 4), 18, 72
    )


def test_another_shape_or_dtype_is_another_line():
    tensors = [
        info("h.0.w", (2,), "mlp", 0),
        info("h.1.w", (3,), "mlp", 1),
        info("h.2.w", (2,), "mlp", 2, dtype="BF16"),
    ]
    assert [(p.shape, p.dtype) for p in patterns_of(tensors)] == [
        ((2,), "F32"),
        ((3,), "F32"),
        ((2,), "BF16"),
    ]


def test_experts_are_numbers_too_and_words_with_digits_are_not():
    tensors = [info(f"layers.0.experts.{i}.w1.weight", (2,), "experts.gate", 0) for i in range(8)]
    (found,) = patterns_of([*tensors])
    assert (found.name, found.tensors, found.layers) == ("layers.*.experts.*.w1.weight", 8, (0,))


def test_a_number_at_the_end_is_one_too():
    assert [
        p.name for p in patterns_of([info("blocks.0", (2,), "other"), info("blocks.1", (2,), "other")])
    ] == ["blocks.*"]
