from __future__ import annotations

import json

import pytest

from tests.hub.fixtures import hub

__all__ = ["hub"]


@pytest.fixture
def made(surgery, work):
    assert surgery("run", "mix.yaml").exit_code == 0
    return work / "out"


def test_a_finished_folder_is_published_as_it_is(hub, surgery, made):
    result = surgery("push", made, "me/half", "--private")
    assert result.stdout == f"{made} is published: {hub.endpoint}/me/half\n"
    found = hub.files("me/half")
    assert {name: found[name] for name in found if name != ".gitattributes"} == {
        path.name: path.read_bytes() for path in made.iterdir()
    }
    assert hub.repos["me/half"].private


def test_what_is_there_is_not_sent_or_committed_again(hub, surgery, made):
    surgery("push", made, "me/half")
    result = surgery("push", made, "hub:me/half", "--json")
    assert json.loads(result.stdout) == {"folder": str(made), "url": f"{hub.endpoint}/me/half"}
    assert (hub.count("PUT"), hub.count("POST .*commit")) == (1, 1)


@pytest.mark.parametrize("words", [["me/half@next"], ["me/half", "--revision", "next"]])
def test_a_branch_is_published_to(hub, surgery, made, words):
    assert surgery("push", made, *words).exit_code == 0
    assert "config.json" in hub.files("me/half", "next")
    assert "config.json" not in hub.files("me/half")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "me/x"], "nowhere: is not a folder; give one that `surgery run` wrote"),
        (["out", "half"], "half: no plugin publishes there; write `hub:org/name`"),
        (
            ["out", "hup:me/x"],
            "hup:me/x: no plugin publishes there; write `hub:org/name`; did you mean `hub`?",
        ),
        (
            ["out", "hub:half"],
            "hub:half: `half` is no repository on the Hub; write `hub:org/name` or `hub:org/name@branch`",
        ),
    ],
)
def test_what_cannot_be_published_is_2(hub, surgery, made, words, message):
    result = surgery("push", *words)
    assert (result.exit_code, result.stderr) == (2, f"error: {message}\n")
    assert hub.requests == []


def test_an_incomplete_folder_is_not_published(hub, surgery, made):
    (made / "model.safetensors").unlink()
    result = surgery("push", "out", "me/half")
    assert (result.exit_code, result.stderr) == (2, "error: out: has no .safetensors file\n")


def test_a_wrong_token_is_2(hub, surgery, made, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    result = surgery("push", "out", "me/half")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: hub:me/half: the Hub does not accept the token;")
