"""Rows in any order: the same numbers and bytes as torch's indexing, however the work is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import surgery
from surgery import CheckpointError, OpError, RunOptions
from surgery.execute.stacked import copies
from surgery.plan.nodes import walk
from surgery.schedule.jobs import make_jobs
from tests.execute.conftest import CPU
from tests.execute.stacked_ops import INDEX, PIECES

OPS = Path(__file__).with_name("stacked_ops.py")


def expected(piece, a, b):
    stacked = torch.cat([a, b])
    match piece:
        case "plain":
            return stacked[INDEX]
        case "computed":
            return torch.cat([a, b * 2])[INDEX]
        case "rows":
            return torch.cat([a.flip(1), b])[INDEX]
        case "reduced":
            filled = torch.full((2, 300), float(stacked[[0, 11]].double().sum()))
            return torch.cat([a, filled, filled, filled])[INDEX]
        case "joined":
            both = torch.stack([a.sum(0), b[[1, 1, 0]].sum(0)])
            return torch.cat([a, both, b])[[*INDEX, 13]]
    return torch.cat([torch.cat([b, a])[[11, 0, 5, 6]], b[2:4]])[[3, 2, 1, 0, 5, 4]]


@pytest.fixture
def run(shop):
    def make(piece, a, b, options=CPU, to="out", **top):
        shop.save("a", {"w": a})
        shop.save("b", {"w": b})
        steps = {"m": {"op": "toy.lay", "models": ["a", "b"], "piece": piece}}
        text = yaml.safe_dump(shop.document(steps, to=to, **top), sort_keys=False)
        make.loaded = surgery.loads(text, folder=shop.folder, plugins=[OPS])
        make.report = make.loaded.run(options)
        return shop.read(to)["w"]

    return make


@pytest.fixture
def models():
    torch.manual_seed(1)
    return torch.randn(6, 300), torch.randn(6, 300)


@pytest.mark.parametrize("piece", sorted(PIECES))
def test_rows_are_where_the_index_says(run, models, piece):
    assert torch.equal(run(piece, *models), expected(piece, *models))


@pytest.mark.parametrize("piece", sorted(PIECES))
@pytest.mark.parametrize("chunk", [64, 320, 100_000])
def test_the_chunk_changes_no_byte(run, models, piece, chunk):
    made = run(piece, *models, RunOptions(device="cpu", threads=2, chunk=chunk))
    assert torch.equal(made, expected(piece, *models))


def test_rows_from_files_are_copied_as_bytes(run, models):
    a, b = (model.bfloat16() for model in models)
    a[3, 0] = float("nan")  # what is copied is not looked at
    made = run("plain", a, b)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made.view(torch.int16), torch.cat([a, b])[INDEX].view(torch.int16))


def test_rows_of_two_dtypes_are_stored_in_one_that_holds_both(run, models):
    a, b = models[0].bfloat16(), models[1]
    made = run("plain", a, b)
    assert made.dtype == torch.float32
    assert torch.equal(made, torch.cat([a.float(), b])[INDEX])


def test_float64_rows_stay_float64(run, models):
    a, b = models[0].double(), models[1].double() / 3
    assert torch.equal(run("computed", a, b), torch.cat([a, b * 2])[INDEX])


def test_nan_in_rows_that_are_computed_with_is_refused(run, models):
    a, b = models
    a[3, 7] = float("nan")
    with pytest.raises(CheckpointError, match=r"w holds 1 NaN or Inf, first at element 907; mend the file"):
        run("plain", a.bfloat16(), b)
    a = a.nan_to_num()
    b[2, 0] = float("inf")
    with pytest.raises((CheckpointError, OpError), match="w holds 1 NaN or Inf, first at element 600"):
        run("computed", a, b, to="other")


def test_nan_becomes_zero_where_the_recipe_says_so(run, models):
    a, b = models
    a[3, 7] = float("nan")
    made = run("plain", a.bfloat16(), b, on_nonfinite="zero")
    assert torch.equal(made, torch.cat([a.bfloat16().float().nan_to_num(), b])[INDEX])


def test_rows_that_are_not_taken_are_not_looked_at(run, models):
    a, b = models
    a[1, 0] = float("nan")  # row 1 is in no index
    assert torch.equal(run("computed", a, b), expected("computed", a, b))


def test_layers_of_a_stacked_tensor_are_ranges_of_it(run, models):
    """A state dict is read lazily, range by range, by other code than a run's."""
    run("computed", *models)
    state = surgery.state_dict(run.loaded)
    assert torch.equal(state["w"], expected("computed", *models))


def test_only_the_rows_that_are_taken_count_as_read(run, models):
    run("plain", *models)
    plan = run.loaded.resolve(force=True).plan
    (job,) = make_jobs(plan.outputs, 1 << 18)
    assert job.reads == run.report.bytes_read == len(INDEX) * 300 * 4
    (tensor,) = plan.outputs[0].tensors
    assert copies(tensor.node, "F32")
    assert not copies(tensor.node, "BF16")
    assert len(list(walk(tensor.node))) == 3
    plan.close()
