from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from surgery import CheckpointError, PlanError
from surgery.checkpoint.safetensors import SafetensorsCheckpoint
from surgery.report.manifest import read_manifest
from surgery.report.sources import Made, changed


@pytest.fixture
def made(out: Path) -> Made:
    return Made.of(out, read_manifest(out))


def test_models_are_found_where_the_recipe_says(made, shop, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert {name: Path(m["source"]).resolve() for name, m in made.sources({}).items()} == {
        "base": shop / "base",
        "code": shop / "code",
    }


def test_then_in_the_current_folder(made, shop, monkeypatch, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved")
    for name in ("base", "code"):
        shutil.move(shop / name, moved / name)
    monkeypatch.chdir(moved)
    assert made.sources({}, ["base"]) == {"base": {"source": str(moved / "base")}}


def test_what_is_given_goes_first(made, shop):
    assert made.sources({"base": "code"})["base"] == {"source": str(shop / "code")}
    assert made.sources({"base": "org/name@main"})["base"] == {"source": "org/name@main"}


def test_everything_that_is_nowhere_is_said_at_once(made, shop):
    for name in ("base", "code"):
        shutil.rmtree(shop / name)
    with pytest.raises(PlanError) as error:
        made.sources({})
    lines = str(error.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["models.base", "models.code"]
    assert lines[0].endswith("; pass --models base=PATH")


def test_a_name_that_the_recipe_lacks_is_said(made):
    with pytest.raises(PlanError) as error:
        made.check_names({"bse": "x", "base": "y"})
    assert str(error.value) == "--models: no model `bse`; did you mean `base`?"


@pytest.mark.parametrize(
    ("written", "pinned"),
    [
        ("org/name", "org/name@abc"),
        ("org/name@main", "org/name@abc"),
        ("hub:org/name@main/folder/x", "hub:org/name@abc/folder/x"),
        ("./somewhere", "org/name@abc"),  # a folder of the Hub's cache
    ],
)
def test_a_model_of_the_hub_is_asked_for_by_its_commit(out, written, pinned):
    manifest = read_manifest(out)
    manifest["recipe"] = manifest["recipe"].replace("./base", written)
    manifest["models"]["base"] |= {"repository": "org/name", "revision": "abc"}
    assert Made.of(out, manifest).sources({})["base"] == {"source": pinned}


def test_an_adapter_is_looked_for_too(out, shop):
    manifest = read_manifest(out)
    manifest["recipe"] = manifest["recipe"].replace("./base", "{source: ./base, adapter: ./code}")
    made = Made.of(out, manifest)
    assert Path(made.sources({})["base"]["adapter"]).resolve() == shop / "code"
    assert made.sources({"base.adapter": "base"})["base"]["adapter"] == str(shop / "base")


def test_a_file_with_other_bytes_is_noticed_a_copy_is_not(made, shop):
    copy = shop / "copy"
    shutil.copytree(shop / "base", copy)
    assert changed("base", made.models["base"], SafetensorsCheckpoint(copy)) == []
    assert changed("base", made.models["base"], SafetensorsCheckpoint(shop / "code")) == [
        "model `base`: `model.safetensors` has other bytes than the file that was read"
    ]
    save_file({"w": torch.ones(1)}, copy / "model-2.safetensors")
    (copy / "model.safetensors").unlink()
    assert changed("base", made.models["base"], SafetensorsCheckpoint(copy)) == [
        "model `base` is in `model-2.safetensors`, it was read from `model.safetensors`"
    ]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"recipe": None}, "holds no recipe: it was written by an older release, or is damaged"),
        ({"models": {"base": "base"}}, "holds no recipe: it was written by an older release, or is damaged"),
        ({"recipe": "[]"}, "its recipe names no models; the file is damaged"),
    ],
)
def test_a_manifest_that_does_not_say_is_refused(out, change, what):
    with pytest.raises(CheckpointError) as error:
        Made.of(out, read_manifest(out) | change)
    assert str(error.value) == f"{out}/surgery.json: {what}"


@pytest.mark.parametrize(
    ("back", "home"), [("", "."), ("..", ".."), ("../..", "../.."), ("../found", "../found"), ("sub", "sub")]
)
def test_the_recipes_folder_is_above_or_beside_the_output(out, back, home):
    assert Made.of(out, read_manifest(out) | {"recipe_folder": back}).home == out / home


@pytest.mark.parametrize(
    "back", ["../../etc/ssh", "/etc", "/", "./..", ".", "../x/..", "../x/", "a/b", 3, None]
)
def test_a_manifest_cannot_lead_the_search_anywhere(out, back):
    made = Made.of(out, read_manifest(out) | {"recipe_folder": back})
    assert made.home == Path.cwd()
