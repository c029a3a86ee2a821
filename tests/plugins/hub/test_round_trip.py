"""Into the Hub and out again with transformers: the same bytes, and a resumed run knows its sources."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from huggingface_hub import snapshot_download
from safetensors.torch import load_file

import surgery
from surgery_hub.client import endpoint
from tests.plugins.hub.conftest import CPU

transformers = pytest.importorskip("transformers")


def test_a_published_merge_loads_with_transformers_and_is_what_a_local_run_writes(hub, recipe, parents):
    recipe(to="./here").run(CPU)
    recipe(to="hub:me/half", output={"shard_size": "4KB"}).run(CPU)
    folder = snapshot_download("me/half", endpoint=endpoint())
    expected = load_file(parents / "here" / "model.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    state = model.state_dict()
    for name, tensor in expected.items():
        assert state[name].equal(tensor), name


def test_a_published_model_is_a_source_again(hub, recipe, parents):
    recipe(to="hub:me/half").run(CPU)
    steps = {"same": {"op": "merge.passthrough", "model": "half"}}
    again = recipe(models={"half": "me/half"}, steps=steps, output={"model": "same", "to": "./out"})
    again.run(CPU)
    assert (parents / "out" / "model.safetensors").read_bytes() == hub.files("me/half")["model.safetensors"]


def test_a_run_resumes_when_the_sources_commit_moved_but_their_weights_did_not(hub, recipe, monkeypatch):
    class Stop(Exception):
        pass

    def stop(*_, **__) -> None:
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr("surgery.execute.run.publish", stop)
        with pytest.raises(Stop):
            recipe(to="./out").run(CPU)
    hub.add("org/base", {"README.md": b"# words"})
    assert recipe(to="./out").run(CPU).resumed == 21


def test_the_manifest_names_commit_and_sha256(hub, recipe):
    import json

    recipe(to="hub:me/half").run(CPU)
    manifest = json.loads(hub.files("me/half")["surgery.json"])
    commit = hub.repos["org/code"].at("main")
    code = manifest["models"]["code"]
    assert (code["source"], code["repository"], code["revision"]) == ("hub:org/code", "org/code", commit.sha)
    assert code["files"]["model.safetensors"]["sha256"] == commit.files["model.safetensors"].sha256


def test_an_adapter_on_the_hub_is_folded_in_like_a_local_one(hub, parents):
    zoo = Path(__file__).parents[3] / "recipes" / "zoo"
    adapter = next(path.parent for path in sorted(zoo.rglob("adapter_config.json")))
    hub.add("org/zoo", zoo / "base")
    hub.add("org/lora", adapter)

    def made(source: str, lora: str, to: str) -> bytes:
        models = {"a": {"source": source, "adapter": lora}}
        document = {"surgery": 1, "models": models, "output": {"model": "a", "to": to}}
        surgery.loads(yaml.safe_dump(document), folder=parents).run(CPU)
        return (parents / to / "model.safetensors").read_bytes()

    local = made(str(zoo / "base"), str(adapter), "local")
    assert made("org/zoo", "org/lora", "from-hub") == local
    assert made("org/zoo", "hub:org/lora@main", "again") == local
