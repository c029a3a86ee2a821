from __future__ import annotations

import json

import pytest


@pytest.fixture
def out(surgery, work):
    """An output with a tokenizer beside it, in two files."""
    recipe = work / "mix.yaml"
    (work / "own").mkdir()
    for file in (work / "base").iterdir():
        (work / "own" / file.name).write_bytes(file.read_bytes())
    (work / "own" / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    text = recipe.read_text().replace("base: ./base", "base: ./own") + "  shard_size: 6KB\n"
    recipe.write_text(text)
    result = surgery("run", "mix.yaml")
    assert result.exit_code == 0, result.stderr
    assert len(list((work / "out").glob("*.safetensors"))) == 2
    return work / "out"


def test_an_output_is_as_it_was_written(surgery, out):
    result = surgery("verify", "out")
    assert (result.exit_code, result.stdout, result.stderr) == (
        0,
        "out: 21 tensors (11.2 KiB) and 2 other files are as they were written\n",
        "",
    )


def test_files_that_did_not_come_with_it_are_left_alone(surgery, out):
    (out / "README.md").write_text("a card")
    assert surgery("verify", "out").exit_code == 0


def test_a_flipped_bit_is_found_with_its_tensor(surgery, out):
    shard = sorted(out.glob("*.safetensors"))[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    result = surgery("verify", "out")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: out/{shard.name}: tensor `")
    assert "` was changed: its hash is " in result.stderr


def test_everything_wrong_is_said_at_once(surgery, out):
    (out / "config.json").write_text("{}")
    (out / "tokenizer_config.json").unlink()
    lines = surgery("verify", "out").stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("out/config.json: was changed: its hash is ")
    assert lines[1] == "out/tokenizer_config.json: is missing"


def test_a_missing_shard_is_found(surgery, out):
    shard = sorted(out.glob("*.safetensors"))[0]
    shard.unlink()
    result = surgery("verify", "out")
    assert result.exit_code == 2
    assert f"`{shard.name}` is missing" in result.stderr


def test_tensors_come_and_go_only_with_the_manifest(surgery, out):
    manifest = out / "surgery.json"
    data = json.loads(manifest.read_text())
    moved = data["tensors"]["model.norm.weight"]
    data["tensors"]["model.phantom.weight"] = data["tensors"].pop("lm_head.weight")
    right, moved["file"] = moved["file"], "elsewhere.safetensors"
    manifest.write_text(json.dumps(data))
    result = surgery("verify", "out")
    assert result.exit_code == 2
    assert sorted(result.stderr.splitlines()) == sorted(
        [
            "out: tensor `model.phantom.weight` is missing",
            f"out/{file_of(out, 'lm_head.weight')}: tensor `lm_head.weight` was not written with the others",
            f"out/{right}: tensor `model.norm.weight` was written to `elsewhere.safetensors`",
        ]
    )


def file_of(out, name: str) -> str:
    return json.loads((out / "model.safetensors.index.json").read_text())["weight_map"][name]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "out/surgery.json is not valid JSON: "),
        ('{"format": 2}', "out/surgery.json: is of format `2`, this release reads format 1"),
        ('{"format": 1}', "out/surgery.json: `files` is not what surgery writes; the file is damaged"),
        (
            '{"format": 1, "files": {}, "tensors": {"w": 1}}',
            "out/surgery.json: `tensors` is not what surgery writes; the file is damaged",
        ),
    ],
)
def test_a_damaged_manifest_is_2(surgery, out, text, complaint):
    (out / "surgery.json").write_text(text)
    result = surgery("verify", "out")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {complaint}")


def test_a_manifest_cannot_make_us_read_elsewhere(surgery, out, work):
    (work / "secret").write_text("x")
    manifest = out / "surgery.json"
    data = json.loads(manifest.read_text())
    data["files"] = {"../secret": "0" * 32}
    manifest.write_text(json.dumps(data))
    assert surgery("verify", "out").stderr == "error: out/secret: is missing\n"


def test_a_folder_without_a_manifest_is_2(surgery, work):
    result = surgery("verify", "base")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: base: has no surgery.json, there is nothing to check against; `surgery run` writes one\n",
    )


def test_what_is_no_folder_is_2(surgery, work):
    result = surgery("verify", "mix.yaml")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: mix.yaml: is not a folder; give one that `surgery run` wrote\n",
    )
