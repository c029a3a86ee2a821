"""Ops that make several stored tensors of one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import surgery
from surgery import OpError, PlanError, RunOptions

PACK = {"p": {"op": "toy.pack", "model": "a"}}


def test_codes_scales_and_constants_are_written_under_their_names(shop):
    shop.save("a", {"w": [[1.0, -2.0], [0.5, 0.25], [3.0, 3.0]], "v": [7.0]})
    shop.run(PACK)
    made = load_file(shop.folder / "out" / "codes.safetensors")
    assert made["w.codes"].tolist() == [[50, -100], [100, 50], [100, 100]]
    assert made["w.codes"].dtype == torch.int8
    assert torch.equal(made["w.scale"], torch.tensor([[0.02], [0.005], [0.03]], dtype=torch.bfloat16))
    assert made["w.pairs"].tolist() == [[1.5, -1.75], [3.0, 3.0]]
    assert made["w.shape"].tolist() == [3, 2]
    assert made["v"].tolist() == [7.0]
    assert sorted(made) == ["v", "w.codes", "w.pairs", "w.scale", "w.shape"]


def test_an_op_describes_config_and_files(shop):
    shop.save("a", {"w": [[1.0, -2.0]], "v": [7.0]})
    (shop.folder / "a" / "config.json").write_text('{"model_type": "x"}')
    (shop.folder / "a" / "tokenizer.json").write_text("{}")
    shop.run(PACK)
    files = {file.name for file in (shop.folder / "out").iterdir()}
    assert {"packed.json", "codes.safetensors"} <= files
    assert not files & {"config.json", "tokenizer.json", "model.safetensors"}
    said = json.loads((shop.folder / "out" / "packed.json").read_text())
    assert said == {"model_type": "x", "packed": ["w"], "kept": ["v"]}


def test_a_sharded_result_has_an_index_of_its_stem(shop):
    shop.save("a", {"w": torch.randn(64, 64), "u": torch.randn(64, 64)})
    steps = {"p": {"op": "toy.pack", "model": "a"}}
    shop.run(steps, output={"model": "p", "to": "out", "shard_size": "16KB"})
    index = json.loads((shop.folder / "out" / "codes.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {
        f"{n}.{part}" for n in "uw" for part in ("codes", "scale", "pairs", "shape")
    }


@pytest.mark.parametrize("chunk", [64, 192, 1 << 20])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_bytes_do_not_depend_on_chunks_and_threads(shop, chunk, threads):
    """Rows are given in pairs, whatever the chunk: a row of `pairs` is made of two."""
    w = shop.save("a", {"w": torch.randn(101, 30), "u": torch.randn(40, 200)})["w"]
    made = shop.run(PACK, RunOptions(device="cpu", threads=threads, chunk=chunk))
    odd = torch.cat([w, torch.zeros(1, 30)])
    assert torch.equal(made["w.pairs"], odd[0::2] + odd[1::2])
    scale = w.abs().amax(1, keepdim=True) / 100
    assert torch.equal(made["w.codes"], torch.round(w / scale).to(torch.int8))


def test_an_op_on_what_another_computes_is_fused_with_it(shop):
    a = shop.save("a", {"w": torch.randn(300, 70)})["w"]
    b = shop.save("b", {"w": torch.randn(300, 70)})["w"]
    steps = {
        "m": {"op": "toy.linear", "models": {"a": 0.5, "b": 0.5}},
        "p": {"op": "toy.pack", "model": "m"},
    }
    made = shop.run(steps)
    w = torch.mul(a, 0.5).add_(b, alpha=0.5)
    assert torch.equal(made["w.codes"], torch.round(w / (w.abs().amax(1, keepdim=True) / 100)).to(torch.int8))
    assert shop.report.bytes_read == 2 * 300 * 70 * 4


def test_whole_tensors_can_be_emitted(shop):
    w = shop.save("a", {"w": torch.randn(50, 20)})["w"]
    made = shop.run({"s": {"op": "toy.split", "model": "a"}})
    assert torch.equal(made["w.q"] + made["w.r"], w)
    assert (made["w.q"] * made["w.r"]).count_nonzero() == 0


def test_a_reduction_comes_before_what_is_emitted(shop):
    w = shop.save("a", {"w": torch.randn(500, 300)})["w"]
    made = shop.run({"s": {"op": "toy.over_norm", "model": "a"}})
    assert torch.equal(made["w.n"], w / w.abs().max())


def test_output_dtype_leaves_emitted_tensors_alone(shop):
    shop.save("a", {"w": [[1.0, -2.0]], "v": [7.0]})
    made = shop.run(PACK, dtype="float16")
    assert made["w.scale"].dtype == torch.bfloat16
    assert made["v"].dtype == torch.float16


def test_a_state_dict_has_them_too(shop):
    shop.save("a", {"w": [[1.0, -2.0]]})
    made = surgery.state_dict(shop.recipe(PACK))
    assert made["w.codes"].tolist() == [[50, -100]]
    assert made["w.shape"].tolist() == [1, 2]


def test_nothing_is_computed_with_what_is_stored(shop):
    shop.save("a", {"w": [[1.0]]})
    steps = {"s": {"op": "toy.split", "model": "a"}, "t": {"op": "toy.scale", "model": "s"}}
    with pytest.raises(
        PlanError, match=r"`toy.scale` computes with what `toy.split` stores .*; put it before step `s`"
    ):
        shop.run(steps)
    with pytest.raises(PlanError, match=r"`toy.scale` takes weights, `p` holds packed tensors"):
        shop.run({**PACK, "t": {"op": "toy.scale", "model": "p"}})


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("names", r"returned \['c'\], not tensors named \['w.c'\], on w \(2, 2\)"),
        ("shape", r"returned w.c as \(2, 1\), it declared \(2, 2\), on w"),
        ("dtype", r"returned w.c as torch.float32, it declared torch.int8, on w"),
        ("type", r"returned Tensor, not tensors named \['w.c'\], on w"),
    ],
)
def test_a_result_that_was_not_declared_is_refused(shop, fault, said):
    shop.save("a", {"w": [[1.0, 2.0], [3.0, 4.0]]})
    with pytest.raises(OpError, match=f"step x: `toy.bad_emit` {said}"):
        shop.run({"x": {"op": "toy.bad_emit", "model": "a", "fault": fault}})


def test_nan_in_what_is_packed_is_refused(shop):
    shop.save("a", {"w": [[1.0, float("nan")]]})
    with pytest.raises(surgery.CheckpointError, match="w holds 1 NaN or Inf, first at element 1"):
        shop.run(PACK)


def test_a_killed_run_resumes_to_the_same_bytes(shop):
    shop.save("a", {"w": torch.randn(64, 64), "u": torch.randn(64, 64)})
    shop.run(PACK)
    whole = shop.data()
    shop.recipe(PACK, to="again").run(replace(RunOptions(device="cpu"), resume=True))
    assert shop.data("again") == whole


def test_an_op_that_needs_activations_asks_for_text(shop):
    shop.save("a", {"w": [[1.0]]})
    steps = {"x": {"op": "toy.activations", "model": "a"}}
    said = (
        r"`toy.activations` looks at activations, .* has no calibration text; add `calibration: {text: FILE}`"
    )
    with pytest.raises(PlanError, match=said):
        shop.run(steps)
    with pytest.raises(
        PlanError, match=r"none.txt cannot be read: No such file or directory; name a text file"
    ):
        shop.run(steps, calibration={"text": "none.txt"})
