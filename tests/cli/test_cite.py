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


SEARCH = """\
surgery: 1
models: {base: ./nowhere, a: ./nowhere/else}
steps:
  one: {op: merge.task_arithmetic, base: base, models: {a: {weight: ${search: [0, 1]}}}}
search: {sampler: evolve.cmaes, evaluator: {name: eval.perplexity, text: nowhere.txt}, trials: 3, to: ./search}
output: {model: one, to: ./out}
"""


def test_a_search_cites_its_sampler_and_what_its_candidates_are_made_with(surgery, work):
    (work / "search.yaml").write_text(SEARCH)
    result = surgery("cite", "search.yaml")
    assert result.exit_code == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith("%")] == [
        "% evolve.cmaes",
        "% evolve.cmaes",
        "% merge.task_arithmetic",
    ]


def test_holes_without_a_search_are_told(surgery, work):
    (work / "holes.yaml").write_text(SEARCH.replace("search: {sampler", "# {sampler"))
    result = surgery("cite", "holes.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "error: holes.yaml:1:1: missing key `search`: what proposes candidates and "
    )


def test_an_op_stands_in_the_place_of_a_recipe(surgery, work):
    result = surgery("cite", "merge.ties")
    assert result.exit_code == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith(("%", "@"))] == [
        "% merge.ties",
        "@misc{yadav2023ties,",
        "@software{modelsurgery,",
    ]
    wrong = surgery("cite", "merge.tie")
    assert wrong.exit_code != 0
    assert wrong.stderr.startswith("error: unknown op `merge.tie`; did you mean `merge.ties`")
    assert surgery("cite", "absent.yaml").stderr.startswith("error: absent.yaml: ")  # no op is called so
