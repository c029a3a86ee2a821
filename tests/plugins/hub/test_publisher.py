from __future__ import annotations

import getpass
import hashlib
from pathlib import Path

import pytest
from huggingface_hub import constants

import surgery
from surgery.errors import CheckpointError
from surgery.testing.tiny import save_tiny
from tests.hub.server import TOKEN
from tests.plugins.hub.conftest import CPU

SHARDS = {"shard_size": "3KB"}


@pytest.fixture
def eager(monkeypatch):
    """Have finished tensors synced at once: small models are otherwise done before the first batch is due."""
    monkeypatch.setattr("surgery.execute.syncer.BATCH_SECONDS", 0.01)


def uploads(hub) -> int:
    return hub.count("PUT /upload")


def test_what_is_published_is_what_a_folder_would_hold(hub, recipe, parents):
    recipe(to="./here").run(CPU)
    report = recipe(to="hub:me/half").run(CPU)
    found, here = hub.files("me/half"), parents / "here"
    for name in ("model.safetensors", "config.json"):
        assert found[name] == (here / name).read_bytes()
    assert found.keys() - {".gitattributes"} == {path.name for path in here.iterdir()}
    assert report.outputs[0].url == f"{hub.endpoint}/me/half"


def test_modules_in_folders_of_their_own_are_published_too(hub, recipe, parents, tmp_path):
    """Those of sentence-transformers: without its pooling such a model is another one."""
    model = save_tiny(tmp_path / "sentences", seed=1, dtype="bfloat16")
    (model / "modules.json").write_text("[]")
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    recipe(to="hub:me/half", models={"base": str(model), "code": "org/code"}).run(CPU)
    assert hub.files("me/half")["1_Pooling/config.json"] == b'{"pooling_mode_mean_tokens": true}'
    assert "modules.json" in hub.files("me/half")


def test_nothing_is_visible_before_the_one_commit(hub, recipe):
    seen = []

    def watch(progress) -> None:
        if "me/half" in hub.repos:
            seen.append((progress.done, frozenset(hub.files("me/half"))))

    hub.rate = 20_000
    recipe(to="hub:me/half", output=SHARDS).run(CPU, listener=watch)
    complete = frozenset(hub.files("me/half"))
    assert {names for _, names in seen} <= {frozenset({".gitattributes"}), complete}
    assert frozenset({".gitattributes"}) in {names for done, names in seen if done}
    assert hub.count("POST .*commit") == 1
    assert len(hub.repos["me/half"].commits) == 2


def test_shards_leave_while_others_are_computed(hub, recipe, eager, parents):
    slow = Path(__file__).parents[2] / "execute" / "toy_ops.py"
    text = """
surgery: 1
models: {base: org/base}
steps: {same: {op: toy.slow, model: base, seconds: 0.05}}
output: {model: same, to: "hub:me/slow", shard_size: 3KB}
"""
    sent = []
    surgery.loads(text, folder=parents, plugins=[slow]).run(
        CPU, listener=lambda progress: sent.append((progress.done < progress.total, uploads(hub)))
    )
    assert max(count for working, count in sent if working) > 0
    assert uploads(hub) == sum(name.endswith(".safetensors") for name in hub.files("me/slow"))


def test_the_folder_goes_when_it_is_published_unless_it_is_to_be_kept(hub, recipe, parents):
    recipe(to="hub:me/half").run(CPU)
    assert list(parents.iterdir()) == []
    recipe(to="hub:me/half@next", output={"keep": "./kept"}).run(CPU)
    assert [path.name for path in parents.iterdir()] == ["kept"]
    assert (parents / "kept" / "model.safetensors").is_file()


def test_a_branch_is_made_and_main_is_left_alone(hub, recipe):
    report = recipe(to="hub:me/half@next").run(CPU)
    assert "model.safetensors" in hub.files("me/half", "next")
    assert hub.files("me/half").keys() == {".gitattributes"}
    assert report.outputs[0].url == f"{hub.endpoint}/me/half/tree/next"


@pytest.mark.parametrize("private", [True, False])
def test_a_new_repository_is_private_if_the_recipe_says_so(hub, recipe, private):
    recipe(to="hub:me/half", output={"private": private}).run(CPU)
    assert hub.repos["me/half"].private is private


def refused(run) -> str:
    with pytest.raises(CheckpointError) as error:
        run.run(CPU)
    return str(error.value)


def test_a_wrong_token_is_found_before_any_weight_is_read(hub, recipe, parents, monkeypatch):
    plan = recipe(to="hub:me/half").resolve()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert refused(plan) == (
        "hub:me/half: the Hub does not accept the token; log in with `hf auth login`,"
        " or set HF_TOKEN to one that is valid"
    )
    assert (hub.count("GET /lfs"), list(parents.iterdir()), "me/half" in hub.repos) == (2, [], False)


def test_no_token_is_found_before_any_weight_is_read(hub, recipe, monkeypatch):
    plan = recipe(to="hub:me/half").resolve()
    monkeypatch.delenv("HF_TOKEN")
    assert refused(plan) == (
        "hub:me/half: publishing needs a token, and there is none; log in with `hf auth login` or set HF_TOKEN"
    )
    assert hub.count("GET /lfs") == 2


@pytest.mark.parametrize("there", [True, False])
def test_a_token_that_may_not_write_is_found_before_any_weight_is_read(hub, recipe, tiny, there):
    if there:
        hub.add("other/half", tiny)
    plan = recipe(to="hub:other/half").resolve()
    assert refused(plan) == (
        "hub:other/half: the token may not do this; use one with write access to the repository,"
        " or ask its owner"
    )
    assert hub.count("GET /lfs") == 2


def test_planning_asks_nothing_about_the_output(hub, recipe):
    recipe(to="hub:me/half").resolve()
    assert hub.count("me/half|whoami|create") == 0


def test_offline_nothing_is_published(hub, recipe, monkeypatch):
    plan = recipe(to="hub:me/half").resolve()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused(plan) == (
        "hub:me/half: cannot be published to, HF_HUB_OFFLINE is set; unset it, or write to a folder"
    )


def test_a_branch_that_moved_is_reported_and_a_second_run_sends_nothing_again(hub, recipe, parents):
    moved = []

    def meddle(progress) -> None:
        if "me/half" in hub.repos and not moved:
            moved.append(hub.add("me/half", {"notes.txt": b"mine"}))

    plan = recipe(to="hub:me/half", output=SHARDS).resolve()
    with pytest.raises(CheckpointError) as error:
        plan.run(CPU, listener=meddle)
    assert str(error.value) == (
        "hub:me/half: the branch `main` was changed while the run was going on;"
        " look at what was changed, then run again: what is uploaded is not sent again"
    )
    assert hub.count("POST .*commit") == 1  # not tried again
    assert hub.files("me/half").keys() == {".gitattributes", "notes.txt"}
    sent = uploads(hub)
    report = recipe(to="hub:me/half", output=SHARDS).run(CPU)
    assert (report.resumed, uploads(hub)) == (21, sent)
    assert {"notes.txt", "config.json"} < hub.files("me/half").keys()
    assert list(parents.iterdir()) == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_busy_is_asked_again(hub, recipe, status):
    for match in ("whoami", "POST .*create", "preupload", "objects/batch", "PUT", "verify", "POST .*commit"):
        hub.fail(status, match)
    recipe(to="hub:me/half").run(CPU)
    assert "model.safetensors" in hub.files("me/half")


def test_an_upload_that_breaks_off_is_begun_again(hub, recipe):
    hub.cut(5000, "PUT", times=2)
    recipe(to="hub:me/half").run(CPU)
    assert uploads(hub) == 3
    assert "model.safetensors" in hub.files("me/half")


def test_an_upload_that_fails_for_good_leaves_all_for_the_next_run(hub, recipe, parents):
    hub.fail(503, "PUT", times=12)
    plan = recipe(to="hub:me/half").resolve()
    assert refused(plan) == (
        "hub:me/half: the Hub is overloaded (HTTP 503); run again later: what is finished is kept"
    )
    assert [path.name for path in parents.iterdir()] == ["me--half.partial"]
    assert recipe(to="hub:me/half").run(CPU).resumed == 21
    assert "model.safetensors" in hub.files("me/half")


def test_rights_that_are_lost_while_uploading_stop_the_run(hub, recipe, eager):
    hub.fail(403, "objects/batch", times=9)
    assert refused(recipe(to="hub:me/half", output=SHARDS).resolve()).startswith(
        "hub:me/half: the token may not do this;"
    )
    assert hub.count("objects/batch") == 1


def test_a_commit_whose_answer_was_lost_counts(hub, recipe):
    hub.fail(504, "POST .*commit", late=True)
    recipe(to="hub:me/half").run(CPU)
    assert "model.safetensors" in hub.files("me/half")
    assert len(hub.repos["me/half"].commits) == 2


def test_the_shards_of_the_model_before_are_removed(hub, recipe):
    recipe(to="hub:me/half", output=SHARDS).run(CPU)
    hub.add("me/half", {"notes.txt": b"mine", "gguf/x.safetensors": b"1"})
    recipe(to="hub:me/half").run(CPU)
    weights = {name for name in hub.files("me/half") if "safetensors" in name}
    assert weights == {"model.safetensors", "gguf/x.safetensors"}
    assert hub.files("me/half")["notes.txt"] == b"mine"


def test_several_outputs_in_one_pass_each_to_its_place(hub, recipe, parents):
    outputs = {
        "a": {"model": "half", "to": "hub:me/a"},
        "b": {"model": "half", "to": "./b"},
        "c": {"model": "half", "to": "hub:me/c", "dtype": "float32"},
    }
    report = recipe(outputs=outputs).run(CPU)
    assert [bool(output.url) for output in report.outputs] == [True, False, True]
    assert [path.name for path in parents.iterdir()] == ["b"]
    weights = (parents / "b" / "model.safetensors").read_bytes()
    assert hub.files("me/a")["model.safetensors"] == weights
    assert len(hub.files("me/c")["model.safetensors"]) > 1.5 * len(weights)


def test_no_token_user_or_path_is_uploaded(hub, recipe, parents):
    recipe(to="hub:me/half", output={**SHARDS, "keep": str(parents / "kept")}).run(CPU)
    everything = b"\n".join([*hub.bodies, *hub.files("me/half").values()])
    blobs = [
        hub.large(b.sha256).read_bytes() for b in hub.repos["me/half"].at("main").files.values() if b.sha256
    ]
    assert len(blobs) > 3
    secrets = [TOKEN, str(parents), str(Path.home()) + "/", str(constants.HF_HUB_CACHE)]
    for secret in [*secrets, f"/{getpass.getuser()}/"]:
        assert secret.encode() not in everything + b"".join(blobs), secret
    # nor does the store of large files see the token
    assert {seen.authorization for seen in hub.requests if seen.path.startswith("/upload")} == {""}


def test_the_hub_knows_the_same_hashes(hub, recipe, parents):
    recipe(to="hub:me/half", output={"keep": "./kept"}).run(CPU)
    blob = hub.repos["me/half"].at("main").files["model.safetensors"]
    assert blob.sha256 == hashlib.sha256((parents / "kept/model.safetensors").read_bytes()).hexdigest()


def test_a_plan_says_where_it_will_be_published(hub, recipe, parents, monkeypatch):
    from click.testing import CliRunner

    from surgery.cli.main import cli

    (parents / "mix.yaml").write_text(recipe(to="hub:me/half@next").recipe.text)
    monkeypatch.chdir(parents)
    shown = CliRunner().invoke(cli, ["plan", "mix.yaml"])
    assert shown.exit_code == 0, shown.output
    assert "output  half  hub:me/half@next" in shown.stdout
    ran = CliRunner().invoke(cli, ["run", "mix.yaml"])
    assert f"output  {hub.endpoint}/me/half/tree/next" in ran.stdout
