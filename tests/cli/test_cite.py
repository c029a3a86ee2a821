from __future__ import annotations


def test_every_source_of_a_recipe_stands_once(surgery, work):
    (work / "two.yaml").write_text(
        "surgery: 1\nmodels: {base: ./nowhere, a: ./nowhere/else}\nsteps:\n"
        "  one: {op: merge.ties, base: base, models: {a: {density: 0.5}}}\n"
        "  two: {op: merge.ties, base: base, models: {one: {density: 0.5}}}\n"
        "  lean: {op: prune.wanda, model: two}\n"
        "output: {model: lean, to: ./out}\n"
    )
    result = surgery("cite", "two.yaml")
    assert result.exit_code == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith(("%", "@"))] == [
        "% prune.wanda",
        "@inproceedings{sun2024simple,",
        "% merge.ties",
        "@misc{yadav2023ties,",
        "@software{modelsurgery,",
    ]


def test_an_unknown_op_is_told(surgery, work):
    (work / "odd.yaml").write_text(
        "surgery: 1\nmodels: {a: ./a}\nsteps: {x: {op: merge.tie, models: [a]}}\noutput: {model: x, to: ./out}\n"
    )
    result = surgery("cite", "odd.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: odd.yaml:3:17: steps.x.op: no op is called `merge.tie`; ")
    assert "`merge.ties`" in result.stderr
