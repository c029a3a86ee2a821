from __future__ import annotations

import json
import shutil

import pytest

IDENTICAL = "out: identical: 21 tensors and 1 other file came out with the same bytes\n"


@pytest.fixture
def out(surgery, work):
    assert surgery("run", "mix.yaml").exit_code == 0
    return work / "out"


def change(folder, **values) -> None:
    path = folder / "surgery.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_output_is_made_again_with_the_same_bytes(surgery, out, work):
    result = surgery("reproduce", "out")
    assert (result.exit_code, result.stdout, result.stderr) == (0, IDENTICAL, "")
    assert {path.name for path in work.iterdir() if path.name.startswith("out")} == {"out"}


def test_it_is_made_again_without_the_recipe_s_file_and_from_anywhere(surgery, out, work, monkeypatch):
    (work / "mix.yaml").unlink()
    monkeypatch.chdir("/")
    assert surgery("reproduce", out).exit_code == 0


def test_the_second_output_can_be_kept(surgery, out, work):
    assert surgery("reproduce", "out", "--out", "again").exit_code == 0
    for name in ("model.safetensors", "config.json"):
        assert (work / "again" / name).read_bytes() == (out / name).read_bytes()
    assert surgery("reproduce", "again").exit_code == 0  # what is made again says how it was made, too


def test_a_flipped_bit_is_found(surgery, out, work):
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (out / "model.safetensors").write_bytes(data)
    (out / "config.json").write_text("{}")
    result = surgery("reproduce", "out")
    assert result.exit_code == 2
    header, *rows = result.stdout.splitlines()
    assert header.split("  ")[0] == "tensor or file"
    assert len(rows) == 2
    assert rows[0].split() == ["config.json", "other", "bytes"]
    assert rows[1].endswith("other bytes")
    assert result.stderr == "error: out: 2 tensors or files differ from what its recipe makes here and now\n"
    assert not (work / "out.again").exists()


def test_another_model_is_told_before_and_its_tensors_after(surgery, out):
    result = surgery("reproduce", "out", "--models", "code=math")
    assert result.exit_code == 2
    assert result.stdout.count("other bytes") == 21
    assert result.stderr.startswith(
        "warning: model `code`: `model.safetensors` has other bytes than the file that was read\n"
    )


def test_models_that_moved_can_be_given(surgery, out, work):
    (work / "code").rename(work / "moved")
    result = surgery("reproduce", "out")
    assert result.exit_code == 2
    assert result.stderr.endswith("; pass --models code=PATH\n")
    assert surgery("reproduce", "out", "--models", "code=moved").stdout == IDENTICAL


def test_other_releases_are_told(surgery, out):
    change(out, surgery="0.0.1", plugins={"merge": {"distribution": "model-surgery", "version": "0.0.1"}})
    result = surgery("reproduce", "out")
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: made with surgery 0.0.1, this is 0.1.0\n"
        "warning: plugin merge: made with model-surgery 0.0.1, this is model-surgery 0.1.0\n"
    )


def test_one_of_several_outputs_is_made_alone(surgery, work):
    text = (work / "mix.yaml").read_text().partition("output:")[0]
    text += "outputs:\n  a: {model: merged, to: ./a}\n  b: {model: merged, to: ./b, dtype: float32}\n"
    (work / "mix.yaml").write_text(text)
    assert surgery("run", "mix.yaml").exit_code == 0
    shutil.rmtree(work / "a")
    result = surgery("reproduce", "b")
    assert (result.exit_code, result.stdout) == (0, IDENTICAL.replace("out", "b", 1))


def test_ops_of_a_file_are_noted_and_asked_for(surgery, work):
    (work / "mine.py").write_text(
        "import surgery\n\n\n@surgery.op('mine.half', models=1)\ndef half(x, p):\n"
        '    """Halve."""\n    return x.models[0] * 0.5\n'
    )
    text = (work / "mix.yaml").read_text()
    old = text[text.index("    op:") : text.index("output:")]
    (work / "mix.yaml").write_text(text.replace(old, "    op: mine.half\n    model: base\n"))
    assert surgery("run", "mix.yaml", "--plugin", "mine.py").exit_code == 0
    assert surgery("reproduce", "out", "--plugin", "mine.py").exit_code == 0
    assert surgery("reproduce", "out").stderr == (
        "error: out: was made with ops of `mine.py`; pass that file with --plugin\n"
    )
    (work / "mine.py").write_text((work / "mine.py").read_text().replace("0.5", "0.25"))
    result = surgery("reproduce", "out", "--plugin", "mine.py")
    assert result.exit_code == 2
    assert result.stderr.startswith("warning: plugin mine: made with mine.py ")


def test_a_folder_in_the_way_is_not_touched(surgery, out, work):
    (work / "out.again").mkdir()
    result = surgery("reproduce", "out")
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: {work}/out.again: exists; move it away or pass --out DIR2\n",
    )


def test_an_output_of_an_older_release_is_2(surgery, out):
    change(out, recipe=None)
    result = surgery("reproduce", "out")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: out/surgery.json: holds no recipe: it was written by an older release, or is damaged\n",
    )


def test_a_manifest_whose_recipe_lacks_the_output_is_2(surgery, out):
    change(out, recipe="surgery: 1\nmodels: {base: ./base}\noutputs: {a: {model: base}}\n")
    assert surgery("reproduce", "out").stderr == (
        "error: out/surgery.json: its recipe has no output `output`; the file is damaged\n"
    )
