from __future__ import annotations

import json
import shutil

import pytest


def test_a_plan_shows_models_steps_outputs_and_totals(surgery, work):
    result = surgery("plan", "mix.yaml")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:11] == [
        "model  source  tensors  parameters      size  dtype",
        "base   ./base       21     5.712 K  11.2 KiB  BF16",
        "code   ./code       21     5.712 K  11.2 KiB  BF16",
        "math   ./math       21     5.712 K  11.2 KiB  BF16",
        "",
        "step    op                     inputs                   applied  copied",
        "merged  merge.task_arithmetic  base (base), code, math       21       0",
        "",
        "output  of      folder  tensors  parameters      size  files  dtype",
        "output  merged  out          21     5.712 K  11.2 KiB      1  BF16",
        "",
    ]
    totals = result.stdout.splitlines()[11:]
    assert totals[:2] == ["reads   33.5 KiB", "writes  11.2 KiB"]
    assert totals[2].startswith("memory  ")
    assert totals[3] == "time    less than 1 s, an estimate: the bytes moved at 1 GB/s"
    assert not (work / "out").exists()


def test_a_calibrated_step_says_what_it_runs(surgery, work):
    shutil.copytree(work / "base", work / "own")
    (work / "own" / "tokenizer.json").write_text("{}")
    (work / "text.txt").write_text("text")
    (work / "lean.yaml").write_text(
        "surgery: 1\nmodels: {base: ./own}\ncalibration: {text: text.txt, samples: 4, length: 8}\n"
        "steps: {lean: {op: prune.wanda, model: base}}\noutput: {model: lean, to: ./out}\n"
    )
    result = surgery("plan", "lean.yaml")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == (
        "calibration  lean runs its model on 4 × 8 tokens first, a block of at most 9.1 KiB at a time; "
        "4.0 KiB of disk meanwhile"
    )


def test_the_memory_is_held_against_the_budget(surgery, work):
    memory = surgery("plan", "mix.yaml", "--memory", "1GiB").stdout.splitlines()[13]
    assert memory.endswith(" of 1.0 GiB allowed")
    refused = surgery("plan", "mix.yaml", "--memory", "1KiB")
    assert refused.exit_code == 2
    assert refused.stderr == "error: --memory: 1.0 KiB is too little; give at least 64.0 MiB\n"


def test_a_finished_output_is_a_warning_in_a_plan(surgery, work):
    (work / "out").mkdir()
    (work / "out" / "README.md").write_text("mine")
    result = surgery("plan", "mix.yaml")
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: mix.yaml:13:7: output.to: out exists and is not empty; "
        "`surgery run` needs `--force` to replace it\n"
    )


def test_a_recipe_without_a_destination_can_be_planned(surgery, work):
    recipe = work / "mix.yaml"
    recipe.write_text(recipe.read_text().replace("  to: ./out\n", ""))
    result = surgery("plan", "mix.yaml")
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: mix.yaml:12:3: output: says not where to write; "
        "`surgery run` needs `--out FOLDER` or `to: FOLDER`\n"
    )
    assert "(not known)" in result.stdout


def test_out_takes_the_place_of_the_recipes_folder(surgery, work):
    assert f"{work / 'elsewhere'} " in surgery("plan", "mix.yaml", "--out", "elsewhere").stdout


def test_everything_wrong_is_said_at_once_a_line_each(surgery, work):
    text = (work / "mix.yaml").read_text()
    (work / "mix.yaml").write_text(text.replace("./code", "./cod").replace("./math", "./mat"))
    result = surgery("plan", "mix.yaml")
    assert result.exit_code == 2
    assert [line.split(":")[:5] for line in result.stderr.splitlines()] == [
        ["mix.yaml", "4", "9", " models.code", " ./cod"],
        ["mix.yaml", "5", "9", " models.math", " ./mat"],
    ]


def test_a_missing_recipe_is_one_line(surgery, work):
    result = surgery("plan", "mx.yaml")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: mx.yaml: cannot be read: no such file or directory\n",
    )


def test_json_is_the_whole_summary(surgery, work):
    data = json.loads(surgery("plan", "mix.yaml", "--json").stdout)
    assert data["bytes_read"] == 3 * 11424
    assert data["bytes_written"] == 11424
    assert data["peak"] <= data["budget"]
    assert [model["name"] for model in data["models"]] == ["base", "code", "math"]
    assert data["steps"] == [
        {
            "name": "merged",
            "op": "merge.task_arithmetic",
            "base": "base",
            "inputs": ["base", "code", "math"],
            "applied": 21,
            "copied": 0,
        }
    ]
    assert data["outputs"][0]["folder"] == "out"
    assert data["warnings"] == []


def test_the_graph_is_drawn_into_a_file(surgery, work):
    result = surgery("plan", "mix.yaml", "--graph", "mix.svg")
    assert result.stdout.splitlines()[-1] == "drawn in mix.svg"
    assert (work / "mix.svg").read_text().startswith("<svg ")
    surgery("plan", "mix.yaml", "--graph", "mix.html", "--json")
    page = (work / "mix.html").read_text()
    assert "<title>mix.yaml</title>" in page
    assert (work / "mix.svg").read_text() in page


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("mix.png", "Error: Invalid value for --graph: `mix.png` is neither .svg nor .html"),
        (
            "no/mix.svg",
            "error: no/mix.svg: cannot be written: No such file or directory; choose another place",
        ),
    ],
)
def test_a_graph_that_cannot_be_written_is_2(surgery, work, file, complaint):
    result = surgery("plan", "mix.yaml", "--graph", file)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, complaint)
