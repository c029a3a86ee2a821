from __future__ import annotations

import pytest

from surgery.errors import RecipeError
from surgery.recipe.load import load_recipe
from tests.search.conftest import recipe_text


def refused(lab, text: str, **settings) -> list[str]:
    with pytest.raises(RecipeError) as error:
        lab.task(text, **settings)
    return [line.removeprefix(f"{lab.folder}/") for line in str(error.value).splitlines()]


def test_a_task_knows_sampler_evaluator_and_their_parameters(lab):
    task = lab.task(
        recipe_text(
            sampler="{name: evolve.cmaes, population: 5}", evaluator="{name: toy.target, target: 0.25}"
        )
    )
    assert (task.sampler.name, task.evaluator.name) == ("evolve.cmaes", "toy.target")
    assert (task.sampler_params.population, task.params.target, task.held_out) == (5, 0.25, None)


def test_held_out_parameters_go_before_the_evaluators(lab):
    text = recipe_text(
        evaluator="{name: toy.target, target: 0.25, fails_above: 9}\n  held_out: {target: 0.5}"
    )
    task = lab.task(text)
    assert (task.held_out.target, task.held_out.fails_above) == (0.5, 9)
    assert task.params.target == 0.25


def test_every_mistake_in_the_search_block_is_found_at_once(lab):
    text = recipe_text(
        sampler="evolve.cmaess", evaluator="{name: toy.target, targt: 1}\n  held_out: {target: a}"
    )
    assert refused(lab, text) == [
        "r.yaml:13:12: search.sampler.name: no sampler is called `evolve.cmaess`; did you mean `evolve.cmaes` "
        "or `evolve.tpe` or `evolve.random`?",
        "r.yaml:14:33: search.evaluator.targt: unknown key; did you mean `target`?",
        "r.yaml:15:22: search.held_out.target: must be a number, got `a`",
    ]


def test_an_unknown_evaluator_is_told(lab):
    assert refused(lab, recipe_text(evaluator="eval.perplexty")) == [
        "r.yaml:14:14: search.evaluator.name: no evaluator is called `eval.perplexty`; did you mean `eval.perplexity`?"
    ]


def test_what_an_op_says_of_the_end_of_a_range_is_told_before_any_trial(lab):
    text = recipe_text(hole="1").replace("op: merge.linear", "op: merge.ties\n    base: zero")
    text = text.replace("      zero: {weight: 1}\n", "").replace(
        "weight: 1}", "density: ${search: [0.1, 1.5]}}"
    )
    (line,) = refused(lab, text)
    assert line == "r.yaml:11:22: steps.mix.models.one.density: must be at most 1, got `1.5`"


def test_choices_that_do_not_fit_are_told_before_any_trial(lab):
    text = recipe_text(hole="${search: {choices: [0.5, 1, none]}}")
    (line,) = refused(lab, text)
    assert "steps.mix.models.one.weight" in line
    assert line.endswith("got `none`")


def test_a_recipe_without_search_holes_or_one_output_is_refused(lab):
    text = recipe_text(hole="1")
    assert refused(lab, text) == [
        "r.yaml:1:1: no hole to search; write one, such as `weight: ${search: [0, 1]}`"
    ]
    start = text.index("search:")
    without = (
        recipe_text()[: recipe_text().index("search:\n")] + recipe_text()[recipe_text().index("output:") :]
    )
    assert refused(lab, without) == [
        "r.yaml:1:1: missing key `search`: what proposes candidates and what scores them; see `docs/search.md`"
    ]
    assert start > 0
    several = recipe_text().replace(
        "output: {model: mix, to: ./out}", "outputs: {a: {model: mix, to: ./out}}"
    )
    assert refused(lab, several)[0].endswith("outputs: a search makes one model; write `output:`")


def test_code_that_a_recipe_names_runs_only_if_it_is_trusted(lab):
    (lab.folder / "score.py").write_text("def score(model):\n    return 1.0\n")
    text = recipe_text(evaluator="{name: eval.python, callable: 'score.py:score', gets: tensors}")
    assert refused(lab, text) == [
        "r.yaml:14:14: search.evaluator: `eval.python` runs code that the recipe names; if you trust it, pass --trust"
    ]
    assert lab.task(text, trust=True).evaluator.name == "eval.python"


def test_run_refuses_every_hole_with_its_place(lab):
    file = lab.write(recipe_text(hole="${search: {range: [0, 1], by: layers(2)}}"))
    with pytest.raises(RecipeError) as error:
        load_recipe(file)
    assert str(error.value) == (
        f"{file}:11:21: steps.mix.models.one.weight: a hole, which only `surgery search` fills; "
        "run that, or write a value in its place"
    )


def test_run_passes_over_a_search_block(lab):
    assert load_recipe(lab.write(recipe_text(hole="0.5"))).search.trials == 6
