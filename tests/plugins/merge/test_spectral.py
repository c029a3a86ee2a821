"""What merges of whole matrices have in common: what is a matrix, the rest, stacks, threads, memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import surgery
from surgery import RunOptions
from surgery.errors import OpError
from surgery.ops import BASE, Signature
from surgery.tensors import Role, TensorSpec
from surgery.testing import run_op, same_bytes
from surgery.testing.runner import signature_of
from surgery_merge._spectral import Deltas, leading
from surgery_merge.boost import boost
from surgery_merge.dop import dop
from surgery_merge.iso_c import iso_c
from surgery_merge.iso_cts import iso_cts
from surgery_merge.opcm import opcm
from surgery_merge.star import star
from surgery_merge.tsvm import tsvm
from surgery_merge.wudi import wudi
from tests.plugins.merge.matrices import ALL, diag, noise, random_models

OPS = {op.name.partition(".")[2]: op for op in (boost, dop, iso_c, iso_cts, opcm, star, tsvm, wudi)}
SUMS = {"boost", "opcm"}  # the others take the mean of what is no matrix

ops = pytest.mark.parametrize("op", OPS.values(), ids=OPS)

LINEAR = "model.layers.0.mlp.up_proj.weight"
ROLE = Role("mlp.up", 0)
EXPERTS = Role("experts.up", 0)


def entries(*weights):
    return [{"weight": weight} for weight in weights]


@ops
@pytest.mark.parametrize("shape", [(), (3,), (1, 1), (4, 5)])
def test_what_is_no_linear_of_a_block_gets_one_factor(op, shape):
    base = noise(*shape).float()
    models = [base + 1, base - 2, base + 7]
    factor = 1 if op.name.partition(".")[2] in SUMS else 1 / 2
    wanted = base + 0.5 * factor * (1 * 1 + 3 * -2)
    given = {"lambda": 0.5} | ({"rescale": "none"} if op is opcm else {})
    merged = run_op(op, given, models, base, each=entries(1, 3, 0), name="model.norm.weight")
    assert torch.allclose(merged, wanted, atol=1e-6)


@ops
def test_linears_of_the_blocks_are_matrices_unasked(op):
    models, base = random_models((6, 5), 2)
    told = {"each": entries(1, 1), "name": LINEAR, "role": ROLE}
    by_default = run_op(op, {}, models, base, **told)
    assert same_bytes(by_default, run_op(op, ALL, models, base, **told))
    assert not same_bytes(by_default, run_op(op, {}, models, base, each=entries(1, 1), name="lm_head.weight"))


@ops
def test_the_experts_of_a_stack_are_matrices_of_their_own(op):
    models, base = random_models((3, 6, 5), 2)
    told = {"each": entries(1, 0.5), "name": "model.layers.0.mlp.experts.up_proj"}
    stack = run_op(op, {}, models, base, role=EXPERTS, **told)
    for index, merged in enumerate(stack):
        alone = run_op(op, ALL, [model[index] for model in models], base[index], **told)
        assert same_bytes(merged, alone)


@ops
def test_nothing_to_add_is_the_base(op):
    models, base = random_models((4, 3), 2)
    for params, weights in (({"lambda": 0}, (1, 1)), ({}, (0, 0))):
        assert same_bytes(run_op(op, {**ALL, **params}, models, base, each=entries(*weights)), base)
    empty = torch.zeros(0, 5)
    assert run_op(op, ALL, [empty, empty], empty, each=entries(1, 1)).shape == (0, 5)
    for tensors in ([base, base], [base]):
        assert torch.allclose(run_op(op, ALL, tensors, base, each=entries(*[1] * len(tensors))), base)


@ops
def test_one_vector_is_copied_where_arithmetic_would_round(op):
    base, model = torch.tensor([1e8]), torch.tensor([1.0])
    assert same_bytes(run_op(op, {}, [model], base, each=entries(1)), model)
    half = signature_of(op, [model], base, [{"weight": 0.5}])
    assert op.simplify(half, op.params.model_validate({"lambda": 2})) == 0
    assert op.simplify(half, op.params.model_validate({"lambda": 0})) == BASE


@ops
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_result_is_rounded_once_to_its_dtype(op, dtype):
    models, base = random_models((6, 5), 2, dtype=dtype)
    merged = run_op(op, ALL, models, base, each=entries(1, 1))
    wide = run_op(op, ALL, [model.double() for model in models], base.double(), each=entries(1, 1))
    assert merged.dtype == dtype
    assert torch.allclose(merged.double(), wide, rtol=torch.finfo(dtype).eps, atol=1e-6)


@ops
def test_a_tensor_that_the_base_lacks_is_refused(op):
    with pytest.raises(OpError) as error:
        run_op(op, {}, [torch.ones(2, 2)], each=[{}])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"


@pytest.fixture
def zoo(tmp_path):
    """Models of six Linears, in folders."""
    for which, name in enumerate(("base", "a", "b")):
        tensors = {
            LINEAR.replace("0", str(layer)): noise(24, 20, seed=layer + 10 * which).float()
            for layer in range(6)
        }
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    return tmp_path


@ops
def test_threads_do_not_change_a_byte(op, zoo):
    document = {
        "surgery": 1,
        "models": {name: f"./{name}" for name in ("base", "a", "b")},
        "steps": {"m": {"op": op.name, "base": "base", "models": {"a": {}, "b": {}}}},
        "output": {"model": "m", "to": "./out"},
    }
    recipe, written = surgery.loads(yaml.safe_dump(document, sort_keys=False), folder=zoo), []
    for threads in (1, 3):
        recipe.run(RunOptions(device="cpu", threads=threads, force=True))
        written.append(load_file(zoo / "out" / "model.safetensors"))
    first, second = written
    base = load_file(zoo / "base" / "model.safetensors")
    assert all(
        same_bytes(first[name], second[name]) and not same_bytes(first[name], base[name]) for name in base
    )


def test_deltas_are_weighted_and_summed_piece_by_piece():
    base = torch.arange(400_000.0).reshape(2, -1)
    deltas = Deltas((base + 1, base + 2), base, (3.0, -1.0))
    assert torch.equal(deltas.total(), torch.ones(2, 200_000, dtype=torch.float64))
    assert [float(delta[1, -1]) for delta in deltas] == [3, -2]
    assert sum(len(piece.base) for _, piece in deltas.pieces()) == 400_000
    assert [deltas.epsilon, Deltas((), base.double(), ()).epsilon] == [2**-23, 2**-52]


@pytest.mark.parametrize(
    ("share", "count"), [(0, 0), (0.1, 1), (0.5, 1), (0.51, 2), (7 / 8, 2), (0.9, 3), (1, 3)]
)
def test_values_4_3_1_reach_a_share(share, count):
    assert leading(torch.tensor([4.0, 3.0, 1.0]), share) == count
    assert leading(torch.zeros(0), share) == 0


PEAKS = """
import importlib, json, torch
from pathlib import Path
from surgery.tensors import Role
from surgery.testing.runner import _chunk, concrete, signature_of
from tests.plugins.merge.test_spectral import MEASURED

torch.set_num_threads(1)

def peak():
    return next(1024 * int(l.split()[1]) for l in Path("/proc/self/status").open() if l.startswith("VmHWM"))

def used(name, params, shape, role):
    op = getattr(importlib.import_module(f'surgery_merge.{name}'), name)
    tensors = [torch.rand(shape) for _ in range(4)]
    signature = signature_of(op, tensors[1:], tensors[0], [{}] * 3, name="w.weight", role=Role(*role))
    given = concrete(op.params, params)
    x = _chunk(op, signature, tensors[1:], tensors[0], 0)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    result = op.implementation(x, given)
    return peak() - before - result.nbytes, op.workspace(signature, given)

used("boost", {}, (9, 9), ("mlp.up", 0)), used("wudi", {}, (9, 9), ("mlp.up", 0))
print(json.dumps([used(*case) for case in MEASURED]))
"""

MLP, EMBED = ("mlp.up", 0), ("embed", None)
R_TSVM = {"fraction": "adaptive", "reweight": "sigma_clip"}
MEASURED = [
    *[(name, {}, shape, MLP) for name in [*OPS, "cart", "svc"] for shape in ((900, 150), (300, 500))],
    *[("dop", {"share": 0.9}, shape, MLP) for shape in ((500, 300), (300, 500))],
    *[("star", {"share": 1}, shape, MLP) for shape in ((500, 300), (300, 500))],
    *[("tsvm", R_TSVM, shape, MLP) for shape in ((900, 150), (300, 500))],
    *[(name, {}, (3000, 1000), EMBED) for name in ("opcm", "wudi")],
]


@pytest.fixture(scope="module")
def peaks():
    """What every op held at once in a process of its own, where what is freed goes back to the system."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads the peak from /proc")
    environment = {"PYTHONPATH": ":".join(sys.path), "MALLOC_MMAP_THRESHOLD_": "65536"}
    ran = subprocess.run(
        [sys.executable, "-c", PEAKS], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(ran.stdout)


@pytest.mark.parametrize("index", range(len(MEASURED)), ids=[f"{c[0]}-{c[2]}" for c in MEASURED])
def test_temporaries_stay_below_what_is_declared(peaks, index):
    used, declared = peaks[index]
    assert used <= declared
    assert declared < 3 * used + (
        9 << 20
    )  # fixed allowances for pieces and LAPACK, which tell for small matrices


@ops
def test_what_is_no_matrix_needs_next_to_nothing(op):
    spec = TensorSpec("lm_head.weight", (128_000, 4096), "BF16")
    signature = Signature(
        spec.name, (spec, spec), spec, (op.each(), op.each()), Role("head", None), spec.numel
    )
    assert op.workspace(signature, op.params()) < 8 << 20


def test_lambda_scales_and_a_ramp_is_a_number_by_then():
    merged = run_op(iso_c, {**ALL, "lambda": [0, 2]}, [diag(3, 1)], torch.zeros(2, 2), each=[{}], depth=0.25)
    assert torch.allclose(merged, diag(1, 1))
