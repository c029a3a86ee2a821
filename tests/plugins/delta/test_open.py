"""Deltas of models on disk: written by a recipe, read beside their base, refused beside another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import surgery
from surgery.errors import CheckpointError, PlanError
from surgery.testing import save_tiny
from tests.hub.fixtures import hub
from tests.plugins.delta.conftest import run, tensors

__all__ = ["hub"]

CODECS = {
    "basis": "rank: 2, basis: 8, sweeps: 1",
    "bits": "masks: 2",
    "kronecker": "terms: 16, dtype: float32",
    "lowrank_sparse": "density: 0.5, max_iter: 2",
    "quantize": "bits: 8",
    "reflect": "side: both, blocks: 2, sweeps: 1",
    "sparse": "density: 1, dtype: float32",
    "tucker": "rank: 64, dtype: float32",
}
BACK = "{source: ./base, adapter: ./%s}"


def recipe(*codecs: str, model: str = "a") -> str:
    steps = "\n".join(
        f"  {codec}: {{op: delta.{codec}, base: base, model: {model}, {CODECS[codec]}}}" for codec in codecs
    )
    outputs = "\n".join(f"  {codec}: {{model: {codec}, to: ./{codec}, shard_size: 20KB}}" for codec in codecs)
    return f"models: {{base: ./base, {model}: ./{model}}}\nsteps:\n{steps}\noutputs:\n{outputs}\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two fine-tunes, and a delta of each codec."""
    folder = tmp_path_factory.mktemp("deltas")
    for seed, name in enumerate(("base", "a", "b")):
        save_tiny(folder / name, seed=seed, hidden=32, intermediate=64, dtype="bfloat16")
    run(folder, recipe(*CODECS))
    return folder


@pytest.fixture
def here(written: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(written, tmp_path / "here"))


def message(folder: Path, models: str) -> str:
    with pytest.raises(PlanError) as error:
        surgery.loads(
            f"surgery: 1\nmodels: {models}\noutput: {{model: m, to: ./x}}\n", folder=folder
        ).resolve()
    return str(error.value).partition("models.")[2]


def test_a_sparse_delta_of_everything_gives_the_bytes_back(written):
    run(written, f"models: {{m: {BACK % 'sparse'}}}\noutput: {{model: m, to: ./again}}\n")
    assert (written / "again/model.safetensors").read_bytes() == (
        written / "a/model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("codec", "error"),
    [
        ("basis", 1),
        ("bits", 0.4),
        ("kronecker", 1e-5),
        ("lowrank_sparse", 0.2),
        ("quantize", 0.01),
        ("reflect", 1),
        ("sparse", 0),
        ("tucker", 1e-5),
    ],
)
def test_what_comes_back_is_the_fine_tune_as_far_as_it_was_stored(written, codec, error):
    base, model, found = (tensors(written, name) for name in ("./base", "./a", BACK % codec))
    coded = [name for name in model if "_proj" in name]
    assert len(coded) == 14
    for name in model:
        share = (found[name] - model[name]).norm() / (model[name] - base[name]).norm().clamp(min=1e-9)
        assert share <= (error if name in coded else 0), name


def test_config_says_how_it_is_coded_and_of_what(written):
    assert json.loads((written / "quantize/delta_config.json").read_text()) == {
        "delta_format": 1,
        "codec": "quantize",
        "parameters": {"bits": 8, "group_size": 128},
        "base": "base",
        "base_config": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    }
    assert not (written / "quantize/config.json").exists()
    assert len(list((written / "quantize").glob("delta-0000?-of-0000?.safetensors"))) > 1


def test_the_bytes_do_not_depend_on_chunks(here):
    """Those that see whole tensors see them whatever the chunks: one of them stands for all."""
    codecs = ("bits", "quantize", "sparse", "tucker")

    def weights() -> list[bytes]:
        return [
            file.read_bytes() for codec in codecs for file in sorted((here / codec).glob("*.safetensors"))
        ]

    before = weights()
    run(here, recipe(*codecs), chunk=64)
    assert weights() == before


def test_deltas_are_merged_without_a_file_between(here):
    run(here, recipe("bits", model="b").replace("./bits", "./bits-b"))
    text = """
models:
  base: ./base
  a: {source: ./base, adapter: ./sparse}
  b: {source: ./base, adapter: ./bits-b}
steps:
  m: {op: merge.ties, base: base, models: {a: {density: 0.5}, b: {density: 0.5}}}
output: {model: m, to: ./%s, dtype: float32}
"""
    run(here, text % "merged")
    run(here, f"models: {{m: {BACK % 'bits-b'}}}\noutput: {{model: m, to: ./dense-b, dtype: float32}}\n")
    run(
        here,
        text.replace("{source: ./base, adapter: ./sparse}", "./a").replace(BACK % "bits-b", "./dense-b")
        % "dense",
    )
    assert (here / "merged/model.safetensors").read_bytes() == (here / "dense/model.safetensors").read_bytes()


def test_nothing_is_stored_of_what_was_not_asked_for(here):
    run(
        here,
        "models: {base: ./base, a: ./a}\n"
        "steps: {d: {op: delta.bits, base: base, model: a, save: none, where: 'layers[0]'}}\n"
        "output: {model: d, to: ./part}\n",
    )
    stored = load_file(here / "part/delta.safetensors")
    assert {name.partition(".layers.")[2][:1] for name in stored} == {"0"}
    found, base, whole = (tensors(here, name) for name in (BACK % "part", "./base", BACK % "bits"))
    same = [name for name in base if torch.equal(found[name], base[name])]
    assert len(same) == len(base) - 7
    run(
        here,
        "models: {base: ./base, a: ./a}\nsteps:\n  d: {op: delta.bits, base: base, model: a, targets: all, masks: 2}\n"
        "output: {model: d, to: ./all}\n",
    )
    everything = load_file(here / "all/delta.safetensors")
    assert {"lm_head.weight.signs", "model.embed_tokens.weight.signs", "model.norm.weight"} <= set(everything)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(tensors(here, BACK % "all")[name], whole[name])


def test_another_base_is_told_while_planning(here):
    assert message(here, "{m: {source: ./b, adapter: ./bits}}") == (
        f"m.adapter: {here}/bits: `./b` is not its base: it has other bytes than the one that the delta was taken of; "
        "name `base` as `source:`"
    )
    save_tiny(here / "small", hidden=16, intermediate=64, dtype="bfloat16")
    said = message(here, "{m: {source: ./small, adapter: ./quantize}}")
    assert (
        "`./small` is not its base: its lm_head.weight is (32, 16), the delta's is (32, 32) (and 20 more such tensors)"
        in said
    )


def test_another_base_that_nothing_was_noted_of_is_told_when_it_is_read(here):
    (here / "bits/surgery.json").unlink()
    with pytest.raises(CheckpointError, match=r"^./b with ./bits: rows 0 to \d+ of model.* are not those"):
        tensors(here, "{source: ./b, adapter: ./bits}")


@pytest.mark.parametrize(
    "models", [[], {}, {"base": 1}, {"base": {"source": "./base", "files": {"model.safetensors": {}}}}]
)
def test_notes_that_tell_nothing_are_no_hindrance(here, models):
    path = here / "bits/surgery.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"models": models}))
    assert tensors(here, BACK % "bits")


def test_a_base_stored_otherwise_is_the_same_base(here):
    run(here, "models: {m: ./base}\noutput: {model: m, to: ./base32, dtype: float32, shard_size: 20KB}\n")
    again, before = (tensors(here, f"{{source: ./{name}, adapter: ./bits}}") for name in ("base32", "base"))
    assert all(torch.equal(again[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("model", "step"), [(", d: ./bits", ""), ("", "  d: {op: delta.bits, base: base, model: a}\n")]
)
def test_by_itself_it_is_no_model(here, model, step):
    merge = "  m: {op: merge.linear, models: {base: 1, d: 1}}\n"
    text = f"surgery: 1\nmodels: {{base: ./base, a: ./a{model}}}\nsteps:\n{step}{merge}output: {{model: m, to: ./x}}\n"
    with pytest.raises(PlanError) as error:
        surgery.loads(text, folder=here).resolve()
    said = "`merge.linear` takes weights, `d` holds deltas; apply them to a base first"
    assert said in str(error.value)


def test_a_copy_is_a_delta_again(here):
    run(here, "models: {d: ./bits}\noutput: {model: d, to: ./copy}\n")
    assert (here / "copy/delta_config.json").read_bytes() == (here / "bits/delta_config.json").read_bytes()
    found, before = (tensors(here, BACK % name) for name in ("copy", "bits"))
    assert all(torch.equal(found[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"delta_format": 2}, "is of format `2`, this release reads format 1"),
        (
            {"codec": "zip"},
            "unknown codec `zip`, known: `basis`, `bits`, `kronecker`, `lowrank_sparse`, `quantize`, `reflect`, "
            "`sparse`, `tucker`; update surgery",
        ),
        (
            {"parameters": {"masks": 99}},
            "parameters.masks: Input should be less than or equal to 8; the file is damaged",
        ),
        ({"parameters": None}, "parameters: "),
    ],
)
def test_a_config_that_is_not_ours_is_refused(here, change, said):
    path = here / "bits/delta_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert message(here, f"{{m: {BACK % 'bits'}}}").startswith(f"m.adapter: {path}: {said}")


def test_it_codes_something(here):
    text = recipe("bits").replace("masks: 2", "where: norm")
    with pytest.raises(
        PlanError, match=r"steps\.bits: codes nothing: no matrix is left; see `targets` and `where`"
    ):
        surgery.loads("surgery: 1\n" + text, folder=here).resolve()


def test_a_delta_on_the_hub_is_read_like_a_local_one(hub, here):
    hub.add("org/delta", here / "bits")
    found, before = (tensors(here, BACK.replace("./%s", name)) for name in ("org/delta", "./bits"))
    assert all(torch.equal(found[name], before[name]) for name in before)


def test_what_is_not_finite_is_told_with_its_place_or_kept(here):
    path, name = here / "a/model.safetensors", "model.layers.0.mlp.up_proj.weight"
    weights = load_file(path)
    weights[name][1, 2] = float("nan")
    save_file(weights, path)
    for codec in CODECS:
        with pytest.raises(CheckpointError, match=f"{name} holds 1 NaN or Inf, first at element 34"):
            run(here, recipe(codec))
    run(here, recipe("sparse", "quantize") + "on_nonfinite: keep\n")
    for codec in ("sparse", "quantize"):
        text = f"surgery: 1\nmodels: {{m: {BACK % codec}}}\noutput: {{model: m}}\non_nonfinite: keep\n"
        assert torch.isnan(surgery.state_dict(surgery.loads(text, folder=here))[name][1, 2]), codec
