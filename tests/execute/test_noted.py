"""What ops note reaches the report of the tensors that descend from it, also through an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import surgery
from surgery import OpError, PluginError, RunOptions
from surgery.notes import Noted

OPS = Path(__file__).with_name("noting_ops.py")
CPU = RunOptions(device="cpu", threads=2, force=True)
TENSORS = {"v": [5.0, -1.0], "w": [[1.0, 2.0], [3.0, 4.0]]}


@pytest.fixture
def note(shop):
    """Run steps on `a` and return what was noted, by the output's tensor: step, tensor and numbers."""
    shop.save("a", TENSORS)

    def run(steps, options=CPU, **top):
        document = shop.document(steps, **top)
        recipe = surgery.loads(yaml.safe_dump(document, sort_keys=False), folder=shop.folder, plugins=[OPS])
        run.report = recipe.run(options)
        return {name: list(notes) for name, notes in run.report.outputs[0].notes.items()}

    run.shop = shop
    return run


def test_a_note_stands_beside_the_tensor_with_its_step(note):
    assert note({"s": {"op": "note.largest", "models": ["a"]}}) == {
        "v": [Noted("s", "v", {"largest": 5.0})],
        "w": [Noted("s", "w", {"largest": 4.0})],
    }


def test_of_a_chain_every_steps_notes_are_told_the_earliest_first(note):
    found = note(
        {
            "first": {"op": "note.largest", "models": ["a"]},
            "twice": {"op": "merge.passthrough", "model": "first", "scale": 2},
            "last": {"op": "note.largest", "models": ["twice"], "where": ["w"]},
        }
    )
    assert found == {
        "v": [Noted("first", "v", {"largest": 5.0})],
        "w": [Noted("first", "w", {"largest": 4.0}), Noted("last", "w", {"largest": 8.0})],
    }


def test_of_a_group_each_tensor_has_its_own(note):
    steps = {"s": {"op": "note.largest", "models": ["a"]}, "g": {"op": "note.pairs", "models": ["s"]}}
    assert note(steps) == {
        "v": [Noted("s", "v", {"largest": 5.0}), Noted("g", "v", {"own": 4.0})],
        "w": [Noted("s", "w", {"largest": 4.0}), Noted("g", "w", {"own": 10.0})],
    }


def test_what_is_emitted_has_the_notes_of_what_it_was_made_of(note):
    found = note({"s": {"op": "note.halves", "model": "a"}})
    assert found["w.a"] == found["w.b"] == [Noted("s", "w", {"first": 1.0})]


@pytest.mark.parametrize(
    ("split", "v", "w"), [("reduce", (4.0, 2), (10.0, 4)), ("model", (14.0, 6), (14.0, 6))]
)
def test_ops_that_gather_note_what_they_found(note, split, v, w):
    found = note({"s": {"op": "note.sum", "models": ["a"], "split": split}})
    assert found == {
        name: [Noted("s", name, {"sum": total, "elements": numel})]
        for name, (total, numel) in {"v": v, "w": w}.items()
    }


def test_where_nothing_was_found_and_where_bytes_are_copied_there_is_nothing_to_tell(note):
    assert note({"s": {"op": "note.sum", "models": ["a"], "tell": "nothing"}}) == {}
    found = note({"s": {"op": "note.largest", "models": ["a"], "where": ["v"]}})
    assert list(found) == ["v"]


def test_what_layouts_put_elsewhere_keeps_the_name_that_it_was_noted_under(shop, note):
    shop.save("b", {f"model.layers.{i}.up.weight": [[float(i)]] for i in range(2)})
    turned = {"op": "stitch.layers", "models": ["s"], "layers": ["s[1]", "s[0]"]}
    found = note({"s": {"op": "note.largest", "models": ["b"]}, "turned": turned})
    assert found["model.layers.0.up.weight"] == [Noted("s", "model.layers.1.up.weight", {"largest": 1.0})]


def test_bytes_are_those_of_an_op_that_notes_nothing(note):
    note({"s": {"op": "note.largest", "models": ["a"]}}, to="noted")
    note({"s": {"op": "note.plain", "models": ["a"]}}, to="plain")
    assert note.shop.data("noted") == note.shop.data("plain")


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"as_": "two words"}, "notes a number as `two words`, a name has letters and underscores only,"),
        ({"times": 2}, "notes `largest` twice"),
    ],
    ids=str,
)
def test_what_may_not_be_noted_is_refused_with_step_and_tensor(note, params, said):
    with pytest.raises(OpError) as error:
        note({"s": {"op": "note.largest", "models": ["a"], "where": ["w"], **params}})
    assert str(error.value) == f"step s: `note.largest` {said} on w (2, 2); mend the plugin"


def test_numbers_that_are_not_finite_are_refused(note):
    with pytest.raises(OpError) as error:
        note({"s": {"op": "note.sum", "models": ["a"], "where": ["w"], "tell": "nan"}})
    assert str(error.value) == (
        "step s: `note.sum` notes nan as `sum`, not a finite number, on w (2, 2); mend the plugin"
    )


@pytest.mark.parametrize("split", ["element", "row"])
def test_a_part_of_a_tensor_has_no_notes(note, split):
    with pytest.raises(PluginError) as error:
        note({"s": {"op": "note.largest", "models": ["a"], "where": ["w"], "split": split}})
    assert str(error.value) == (
        "w: the op notes `largest` of a part of the tensor; see whole tensors, or define `notes`"
    )


def test_a_run_that_goes_on_has_the_notes_of_what_was_finished_before(note):
    one = RunOptions(device="cpu", threads=1)
    stops = {"op": "note.largest", "models": ["a"]}
    # both steps give the same node for `v`, so that it is kept; `w` fails first and is another op's then
    steps = {"s": {**stops, "where": ["v"]}, "t": {**stops, "models": ["s"], "where": ["w"], "fail_on": "w"}}
    with pytest.raises(OpError, match="as told"):
        note(steps, one)
    journal = note.shop.folder / "out.partial" / ".surgery" / "journal-0.jsonl"
    assert json.loads(journal.read_text().splitlines()[1])[5:] == [[["s", "v", {"largest": 5.0}]]]
    steps["t"]["fail_on"] = ""
    assert note(steps, one) == {
        "v": [Noted("s", "v", {"largest": 5.0})],
        "w": [Noted("t", "w", {"largest": 4.0})],
    }
    assert note.report.resumed == 1


def test_threads_do_not_change_what_is_noted(note):
    tensors = {f"w{i:02}": torch.full((3,), float(i)) for i in range(20)}
    note.shop.save("a", tensors)
    steps = {"s": {"op": "note.largest", "models": ["a"]}}
    runs = [note(steps, RunOptions(device="cpu", threads=n, force=True)) for n in (1, 3)]
    assert runs[0] == runs[1] == {n: [Noted("s", n, {"largest": float(n[1:])})] for n in tensors}
