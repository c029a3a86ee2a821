"""Candidates in memory equal what a run would write, whatever was kept from earlier ones."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

import surgery
from surgery import RunOptions
from surgery.checkpoint.tokenizer import vocabulary
from surgery.host import Host
from surgery.recipe.load import parse_recipe
from surgery.search.workbench import Workbench
from tests.plugins.stitch.vocabularies import save

OPTIONS = RunOptions(device="cpu", threads=2)

STEPS = """
  scaled: {{op: merge.passthrough, model: a, scale: 0.5}}
  mixed: {{op: merge.linear, models: {{scaled: 1, b: 2}}}}
  merged:
    op: merge.ties
    base: base
    lambda: {amount}
    models: {{mixed: {{weight: {weight}, density: {density}}}, b: {{weight: 0.5, density: 0.5}}}}
"""


@pytest.fixture
def models(tmp_path):
    """Three models; some tensors are larger than a block of a gather, one is float64 in one model."""
    for seed, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            "layers.0.w": torch.randn(300, 500, generator=generator),
            "layers.1.w": torch.randn(40, 50, generator=generator).bfloat16(),
            "norm.w": torch.randn(70, generator=generator).double()
            if name == "b"
            else torch.randn(70, generator=generator),
            "ids": torch.arange(5),
        }
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    return tmp_path


def recipe(folder, steps: str = STEPS, **numbers: float):
    filled = steps.format(**{"amount": 1.0, "weight": 1.0, "density": 0.5, **numbers})
    text = f"surgery: 1\nmodels: {{base: ./base, a: ./a, b: ./b}}\nsteps:{filled}output: {{model: merged}}\n"
    return parse_recipe(text, folder=folder)


def made(bench: Workbench, one) -> dict[str, torch.Tensor]:
    candidate = bench.plan(one)
    return dict(bench.tensors(candidate, set(candidate.digests)))


def lazily(one) -> dict[str, torch.Tensor]:
    return dict(surgery.state_dict(surgery.LoadedRecipe(one, Host())))


CANDIDATES = [{}, {"weight": 0.7}, {"amount": 0.3}, {"density": 0.2}, {"weight": 0.7, "density": 0.2}, {}]


def test_every_candidate_has_the_bytes_of_its_own_recipe(models):
    bench = Workbench(Host(), OPTIONS)
    for numbers in CANDIDATES:
        one = recipe(models, **numbers)
        tensors, alone = made(bench, one), lazily(one)
        assert list(tensors) == list(alone)
        for name, tensor in tensors.items():
            assert torch.equal(tensor, alone[name]), (numbers, name)
            assert tensor.dtype == alone[name].dtype


def test_without_room_nothing_is_kept_and_the_bytes_are_the_same(models):
    bench = Workbench(Host(), OPTIONS)
    bench._room._left = 0
    for numbers in CANDIDATES[:3]:
        one = recipe(models, **numbers)
        assert all(torch.equal(tensor, lazily(one)[name]) for name, tensor in made(bench, one).items())
    assert not bench._shared._kept


def test_what_no_hole_touches_is_computed_once(models, monkeypatch):
    calls: list[str] = []
    host = Host()
    implementation = host.op("merge.linear").implementation

    def counted(x, p):
        calls.append(x.signature.name)
        return implementation(x, p)

    object.__setattr__(host.op("merge.linear"), "implementation", counted)
    try:
        bench = Workbench(host, OPTIONS)
        counts = []
        for amount in (0.1, 0.2, 0.3, 0.4):
            made(bench, recipe(models, amount=amount))
            counts.append(calls.count("layers.1.w"))
            calls.clear()
    finally:
        object.__setattr__(host.op("merge.linear"), "implementation", implementation)
    assert counts[0] > 0  # nothing is known yet
    assert counts[1] == 1  # known from before: computed by itself, and kept
    assert counts[2:] == [0, 0]


def test_thresholds_are_found_once_for_each_density(models, monkeypatch):
    from surgery_merge.ties import TiesOp

    implementation = TiesOp.implementation
    gathered: list[str] = []
    original = type(implementation).gather

    def counted(self, x, p, found):
        gathered.append(x.signature.name)
        return original(self, x, p, found)

    monkeypatch.setattr(type(implementation), "gather", counted)
    steps = STEPS.replace("mixed:", "a:").replace(
        "  a: {{op: merge.linear, models: {{scaled: 1, b: 2}}}}\n", ""
    )
    steps = steps.replace("  scaled: {{op: merge.passthrough, model: a, scale: 0.5}}\n", "")
    bench = Workbench(Host(), OPTIONS)
    counts = []
    for numbers in ({"weight": 0.1}, {"weight": 0.2}, {"weight": 0.2, "density": 0.3}, {"amount": 0.5}):
        made(bench, recipe(models, steps, **numbers))
        counts.append(len(gathered))
        gathered.clear()
    assert counts[0] > 0
    assert counts[1] == 0
    assert counts[2] == counts[0]
    assert counts[3] == 0


def test_sources_are_read_once(models, monkeypatch):
    from surgery.checkpoint.files import LocalFile

    reads: list[str] = []
    original = LocalFile.read_into

    def counted(self, offset, buffer, what):
        reads.append(what)
        original(self, offset, buffer, what)

    monkeypatch.setattr(LocalFile, "read_into", counted)
    bench = Workbench(Host(), OPTIONS)
    made(bench, recipe(models))  # opens the files; what it reads is not kept yet
    assert reads
    made(bench, recipe(models, weight=0.3))
    reads.clear()
    made(bench, recipe(models, weight=0.6))
    assert reads == []


def test_files_that_a_step_makes_lie_in_a_folder_for_evaluators(tmp_path):
    save(tmp_path / "a", {"x": 0, "y": 1})
    save(tmp_path / "b", {"x": 0, "z": 1})
    text = "surgery: 1\nmodels: {a: ./a, b: ./b}\nsteps: {m: {op: stitch.tokenizer, models: [a, b], of: a}}\n"
    bench = Workbench(Host(), OPTIONS)
    candidate = bench.plan(parse_recipe(text + "output: {model: m}\n", folder=tmp_path))
    file = candidate.subject("cpu").sidecars["tokenizer.json"]
    assert vocabulary(file).ids == {"x": 0, "y": 1, "z": 2}
    bench.close()
    assert not file.parent.exists()
