"""Whole searches on two tensors: the best weight of `one` is 0.3, with a score of 0."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import surgery
from surgery import ResourceError, SurgeryError
from surgery.search.journal import SearchJournal, read_history
from surgery.search.run import search
from surgery.search.task import load_task
from surgery.search.workbench import Workbench
from tests.search.conftest import OPTIONS, TOYS, recipe_text

FAR = '''\
from __future__ import annotations
import surgery
from surgery import Params
class Each(Params):
    weight: float = 1.0
class Far(Params):
    normalize: bool = True
@surgery.op('far.off', params=Far, each=Each, models=(1, None))
def off(x, p):
    """Add ten."""
    return x.models[0] + 10
'''


def journal(lab) -> list[dict]:
    lines = (lab.folder / "found" / "journal.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def timeless(lines: list[dict]) -> list[dict]:
    return [
        {key: value for key, value in line.items() if key not in ("wall", "cost", "loaded")} for line in lines
    ]


def test_baselines_come_first_then_the_trials(lab):
    result = lab.search(recipe_text())
    assert [trial.name for trial in result.trials] == [
        "parent zero",
        "parent one",
        "average",
        "centre",
        *(f"trial {i}" for i in range(1, 7)),
    ]
    scores = {trial.name: trial.score for trial in result.baselines}
    assert scores["parent zero"] == pytest.approx(0.09)
    assert scores["parent one"] == pytest.approx(0.49)
    assert scores["average"] == scores["centre"] == pytest.approx(0.04)


def test_the_winner_has_the_best_score_and_its_values(lab):
    result = lab.search(recipe_text(sampler="evolve.cmaes"), trials=40)
    assert result.winner.score == min(trial.score for trial in result.trials)
    (weight,) = result.winner.genome
    assert weight == pytest.approx(0.3, abs=0.05)
    assert result.winner.score == pytest.approx((weight - 0.3) ** 2, abs=1e-6)


def test_maximize_turns_the_search_round(lab):
    text = recipe_text(sampler="evolve.cmaes", trials="20\n  goal: maximize")
    result = lab.search(text)
    assert result.winner.score == max(t.score for t in result.trials if t.genome is not None)
    assert result.winner.genome[0] > 0.95


def test_the_winner_is_a_plain_recipe_that_makes_the_candidates_bytes(lab):
    hole = "${search: {range: [0, 1], by: {layers: 2, roles: ['layers[0]', default]}}}"
    text = recipe_text(hole=hole, evaluator="{name: toy.target}\n  held_out: {target: 0.5}")
    result = lab.search(text)
    winner = lab.folder / "found" / "winner.yaml"
    assert "search" not in winner.read_text().partition("\n")[2]
    surgery.load(winner).run(OPTIONS)
    written = load_file(lab.folder / "out" / "model.safetensors")
    task = lab.task(text)
    bench = Workbench(task.host, OPTIONS)
    candidate = bench.plan(task.recipe(result.winner.genome))
    for name, tensor in bench.tensors(candidate, set(candidate.digests)):
        assert torch.equal(written[name], tensor)


def test_what_the_resident_held_is_what_the_winners_recipe_writes(lab):
    result = lab.search(recipe_text(sampler="evolve.cmaes"), trials=1)
    trial = result.trials[-1]
    held = {name: tensor.clone() for name, tensor in lab.opened[-1][1].tensors.items()}
    assert result.trials.index(trial) == len(result.trials) - 1
    filled = recipe_text(hole=repr(trial.genome[0]))
    surgery.load(lab.write(filled)).run(OPTIONS)
    written = load_file(lab.folder / "out" / "model.safetensors")
    assert all(torch.equal(written[name], held[name]) for name in written)


def test_the_same_seed_gives_the_same_journal(lab):
    lab.search(recipe_text(sampler="evolve.tpe"), out=lab.folder / "found")
    first = journal(lab)
    (lab.folder / "found").rename(lab.folder / "before")
    lab.search(recipe_text(sampler="evolve.tpe"))
    assert timeless(journal(lab)) == timeless(first)


@pytest.mark.parametrize("sampler", ["evolve.cmaes", "evolve.tpe", "evolve.random", "evolve.greedy"])
@pytest.mark.parametrize("after", [0, 3, 5])
def test_an_interrupted_search_goes_the_way_it_would_have_gone(lab, control, sampler, after):
    hole = "${search: {choices: [0, 1], by: ['layers[0]', 'layers[1]']}}"
    holes = {"hole": hole} if sampler == "evolve.greedy" else {}
    text = recipe_text(sampler=sampler, **holes, **control(99))
    lab.search(text)
    whole = journal(lab)
    (lab.folder / "found").rename(lab.folder / "whole")
    (lab.folder / "control.log").unlink()
    control(after)
    with pytest.raises(KeyboardInterrupt):
        lab.search(text)
    control(99)
    lab.search(text, resume=True)
    assert timeless(journal(lab)) == timeless(whole)


def test_a_half_written_last_line_counts_as_not_written(lab):
    lab.search(recipe_text(sampler="evolve.cmaes"))
    file = lab.folder / "found" / "journal.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[: -len(whole.splitlines(keepends=True)[-1]) + 20])
    lab.search(recipe_text(sampler="evolve.cmaes"), resume=True)
    assert timeless(journal(lab)) == timeless([json.loads(line) for line in whole.splitlines()])


def test_a_resumed_search_scores_nothing_twice_and_may_go_on_longer(lab, control):
    text = recipe_text(**control(99))
    lab.search(text)
    before = len((lab.folder / "control.log").read_text().splitlines())
    result = lab.search(text, resume=True, trials=8)
    assert len(result.trials) == 12
    assert len((lab.folder / "control.log").read_text().splitlines()) == before + 2


def test_equal_candidates_are_scored_once(lab, control):
    text = recipe_text(hole="${search: {choices: [0.25, 0.5]}}", trials="5", **control(99))
    result = lab.search(text)
    log = (lab.folder / "control.log").read_text().splitlines()
    assert (
        len(log) == len({trial.id for trial in result.trials}) == 5
    )  # two parents, their average, two choices
    repeated = [trial for trial in result.trials if trial.same is not None]
    assert len(repeated) == 4
    for trial in repeated:
        first = result.trials[trial.same]
        assert (first.id, first.score) == (trial.id, trial.score)


def test_candidates_that_make_the_same_are_scored_once(lab, control):
    text = recipe_text(hole="1", sampler="evolve.greedy", **control(99)).replace("    normalize: false\n", "")
    text = text.replace("{weight: 1}", "{weight: ${search: {choices: [0, 1]}}}")
    result = lab.search(text)
    # a model alone makes what it was, all of them their average: none of the trials is anything new
    assert [(t.name, t.genome, t.same) for t in result.trials] == [
        ("parent zero", None, None),
        ("parent one", None, None),
        ("average", None, None),
        ("centre", (1, 1), 2),
        ("trial 1", (1, 0), 0),
        ("trial 2", (0, 1), 1),
        ("trial 3", (1, 1), 3),
    ]
    assert len((lab.folder / "control.log").read_text().splitlines()) == 3
    for trial in result.trials[3:]:
        assert trial.score == result.trials[trial.same].score


def test_files_beside_the_weights_tell_candidates_apart(lab):
    text = recipe_text(hole="1", sampler="evolve.greedy").replace("    normalize: false\n", "")
    text = text.replace("{weight: 1}", "{weight: ${search: {choices: [0, 1]}}}")
    (lab.folder / "one" / "generation_config.json").write_text("{}")
    same = {trial.name: trial.same for trial in lab.search(text).trials}
    assert (same["trial 1"], same["trial 2"]) == (0, None)  # without a base the first model gives the files


def test_a_sampler_with_nothing_left_ends_the_search(lab):
    hole = "${search: {choices: [0, 1], by: ['layers[0]', 'layers[1]']}}"
    result = lab.search(recipe_text(hole=hole, sampler="evolve.greedy"), trials=50)
    assert [t.genome for t in result.trials if t.kind == "trial"] == [(1, 0), (0, 1), (1, 1)]
    again = lab.search(recipe_text(hole=hole, sampler="evolve.greedy"), trials=60, resume=True)
    assert again.trials == result.trials


def test_holes_that_the_sampler_cannot_vary_are_told_before_anything_is_scored(lab, control):
    with pytest.raises(SurgeryError, match=r"^evolve\.greedy: leaves out or takes in, `steps\.mix\."):
        lab.search(recipe_text(sampler="evolve.greedy", **control(99)))
    assert not (lab.folder / "control.log").exists()
    assert not (lab.folder / "found" / "journal.jsonl").exists()


def test_failures_are_journaled_with_their_reason_and_the_search_goes_on(lab):
    result = lab.search(recipe_text(evaluator="{name: toy.target, fails_above: 0.6}"), trials=12)
    failed = [trial for trial in result.trials if trial.failure is not None]
    assert {trial.failure for trial in failed} == {"ValueError: too large"}
    assert "parent one" in {trial.name for trial in failed}
    assert all(trial.score is None for trial in failed)
    assert len([trial for trial in failed if trial.kind == "trial"]) > 0
    assert result.winner.score is not None


@pytest.mark.parametrize(
    ("retries", "failure"),
    [(0, "RuntimeError: try later"), (1, "RuntimeError: try later (2 tries)"), (2, None)],
)
def test_an_evaluation_that_raises_is_tried_again_if_asked_for(lab, retries, failure):
    text = recipe_text(evaluator=f"{{name: toy.target, flaky: 2}}\n  retries: {retries}")
    if failure is None:
        assert all(trial.failure is None for trial in lab.search(text).trials)
        return
    with pytest.raises(SurgeryError) as error:
        lab.search(text)
    assert str(error.value) == f"search: no baseline can be scored: {failure}"


def test_more_retries_are_no_other_search(lab):
    lab.search(recipe_text(trials="2\n  retries: 1"))
    assert len(lab.search(recipe_text(trials="3\n  retries: 2"), resume=True).trials) == 4 + 3


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ("target: .nan", "the score is nan"),
        ("mean: .nan", "the evaluator's `mean` is nan"),
        ("mean: .inf", "the evaluator's `mean` is inf"),
    ],
)
def test_a_number_that_is_not_finite_is_a_failure(lab, params, told):
    with pytest.raises(SurgeryError) as error:
        lab.search(recipe_text(evaluator=f"{{name: toy.target, {params}}}"))
    assert str(error.value) == f"search: no baseline can be scored: {told}"
    assert [line["failure"] for line in journal(lab)[1:]] == [told] * 4


def test_an_op_that_breaks_down_while_planning_fails_its_candidate_only(lab):
    text = recipe_text(hole="0.5").replace(
        "op: merge.linear", "op: ${search: {choices: [far.off, merge.linear]}}"
    )
    own = lab.folder / "far.py"
    own.write_text(FAR.replace("models=(1, None)", "models=(1, None), check=lambda s, p: [][1]"))
    result = search(load_task(lab.write(text), [TOYS, own]), OPTIONS, trials=6)
    failures = {trial.genome: trial.failure for trial in result.trials if trial.genome}
    assert failures == {("merge.linear",): None, ("far.off",): "IndexError: list index out of range"}


def test_a_search_in_which_no_baseline_can_be_scored_ends_there(lab):
    with pytest.raises(SurgeryError) as error:
        lab.search(recipe_text(evaluator="{name: toy.target, fails_above: -1}"))
    assert str(error.value) == "search: no baseline can be scored: ValueError: too large"
    assert len(journal(lab)) == 1 + 4


def test_what_an_evaluator_misses_is_told_before_the_first_candidate(lab):
    with pytest.raises(SurgeryError, match=r"^toy\.target: something is missing; find it$"):
        lab.search(recipe_text(evaluator="{name: toy.target, missing: true}"))
    assert not (lab.folder / "found" / "journal.jsonl").exists()


def test_held_out_scores_are_those_of_winner_and_baselines_on_other_data(lab):
    text = recipe_text(evaluator="{name: toy.target}\n  held_out: {target: 1.0}")
    result = lab.search(text)
    scores = {one.name: one.score for one in result.held_out}
    assert list(scores) == ["winner", "parent zero", "parent one", "average", "centre"]
    assert scores["parent one"] == 0.0
    assert scores["winner"] == pytest.approx((1 - result.winner.genome[0]) ** 2, rel=1e-4)
    assert "parent one" in result.beaten_by()
    assert "parent zero" not in result.beaten_by()


def test_held_out_scores_may_change_without_another_search(lab, control):
    stop = control(99)["evaluator"]
    lab.search(recipe_text(evaluator=stop))
    before = len((lab.folder / "control.log").read_text().splitlines())
    result = lab.search(recipe_text(evaluator=f"{stop}\n  held_out: {{target: 0.5}}"), resume=True)
    assert len((lab.folder / "control.log").read_text().splitlines()) == before + len(result.held_out)


def test_only_tensors_that_change_are_loaded(lab):
    text = recipe_text(hole="${search: {range: [0, 1], by: ['layers[0]', default]}}")
    first, second = "0.25", "0.75"
    text = text.replace(
        "range: [0, 1], by: ['layers[0]', default]",
        f"choices: [{first}, {second}], by: ['layers[0]', default]",
    )
    lab.search(text, trials=8)
    loaded = lab.opened[-1][1].loaded
    assert loaded[0] == ["layers.0.w", "layers.1.w"]
    assert ["layers.0.w"] in loaded or ["layers.1.w"] in loaded


def test_a_second_search_in_a_folder_needs_resume(lab):
    lab.search(recipe_text(), trials=1)
    with pytest.raises(ResourceError) as error:
        lab.search(recipe_text(), trials=1)
    assert str(error.value) == (
        f"{lab.folder / 'found'}: holds a search; pass --resume to go on with it, or choose another folder"
    )


def test_a_changed_recipe_or_model_is_another_search(lab):
    lab.search(recipe_text(), trials=1)
    with pytest.raises(ResourceError, match="is the journal of another search"):
        lab.search(recipe_text(hole="${search: [0, 2]}"), trials=1, resume=True)
    model = lab.folder / "one" / "model.safetensors"
    data = model.read_bytes()
    model.unlink()
    model.write_bytes(data)
    with pytest.raises(ResourceError, match="is the journal of another search"):
        lab.search(recipe_text(), trials=1, resume=True)


def test_a_changed_file_of_the_evaluator_is_another_search(lab):
    (lab.folder / "read.txt").write_text("one")
    text = recipe_text(evaluator="{name: toy.target, text: read.txt}")
    lab.search(text, trials=1)
    (lab.folder / "read.txt").unlink()
    (lab.folder / "read.txt").write_text("one")  # another file of the same words
    assert len(lab.search(text, trials=2, resume=True).trials) == 6
    (lab.folder / "read.txt").write_text("two")
    with pytest.raises(ResourceError) as error:
        lab.search(text, trials=3, resume=True)
    assert str(error.value) == (
        f"{lab.folder / 'found' / 'journal.jsonl'}: is the journal of another search: recipe, models, settings or "
        "files that the evaluator reads have changed; search into another folder"
    )


def test_a_damaged_journal_is_refused_with_its_line(lab):
    lab.search(recipe_text(), trials=1)
    file = lab.folder / "found" / "journal.jsonl"
    lines = file.read_text().splitlines()
    lines[2] = "{}"
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(ResourceError) as error:
        lab.search(recipe_text(), resume=True)
    assert str(error.value) == f"{file}:3: is damaged; search into another folder"


def test_a_journal_that_another_sampler_wrote_is_refused(lab):
    lab.search(recipe_text(), trials=2)
    file = lab.folder / "found" / "journal.jsonl"
    lines = file.read_text().splitlines()
    record = json.loads(lines[-1])
    record["genome"] = [0.125]
    file.write_text("\n".join([*lines[:-1], json.dumps(record)]) + "\n")
    with pytest.raises(
        ResourceError, match="candidate 5 is `trial 2` with other values than this search proposes"
    ):
        lab.search(recipe_text(), resume=True)


def test_a_place_to_write_is_needed(lab):
    text = recipe_text().replace("  to: ./found\n", "")
    with pytest.raises(
        ResourceError, match=r"says not where to write; add `search.to: FOLDER` or pass --out"
    ):
        lab.search(text)


def test_the_folder_holds_result_and_page(lab):
    text = recipe_text(evaluator="{name: toy.target}\n  held_out: {target: 0.4}")
    result = lab.search(text)
    told = json.loads((lab.folder / "found" / "result.json").read_text())
    assert told["winner"]["genome"] == list(result.winner.genome)
    assert told["genes"] == ["steps.mix.models.one.weight"]
    assert (told["trials"], told["failures"], told["space"]) == (6, 0, "1 number")
    page = (lab.folder / "found" / "report.html").read_text()
    for part in ("<svg", "parent one", "trial 6", "steps.mix.models.one.weight", "Held-out scores"):
        assert part in page


def test_a_journal_survives_the_round_trip(lab):
    result = lab.search(recipe_text())
    file = lab.folder / "found" / "journal.jsonl"
    header = json.loads(file.read_text().splitlines()[0])
    assert tuple(SearchJournal(file, header["search"], result.about).load()) == result.trials
    assert read_history(file) == result.history


def test_a_choice_of_op_changes_the_graph(lab):
    text = recipe_text(hole="0.5").replace(
        "op: merge.linear", "op: ${search: {choices: [merge.linear, toy.far]}}"
    )
    own = lab.folder / "far.py"
    own.write_text(FAR)
    task = load_task(lab.write(text.replace("toy.far", "far.off")), [TOYS, own])
    result = search(task, OPTIONS, trials=4)
    scores = {trial.genome: trial.score for trial in result.trials if trial.genome}
    assert scores[("merge.linear",)] == pytest.approx(0.04)
    assert scores[("far.off",)] > 90
