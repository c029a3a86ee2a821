"""What stands against running a step's input model on text is found while planning, all at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import surgery
from surgery import PlanError
from surgery.plan import calibration as module
from surgery.plan.calibration import calibrations_of
from surgery.plan.nodes import Digests
from surgery.testing import save_tiny

OPS = '''
import surgery
from surgery import Need, Split

for name, split, need in [
    ("row", Split.ROW, Need.SQUARES), ("model", Split.MODEL, Need.SQUARES), ("states", Split.TENSOR, Need.LAST)
]:
    def seen(x, p):
        """Look at activations."""
        return x.models[0]

    vars()[name] = surgery.op(f"cal.{name}", split=split, models=1, vectors="skip", needs=[need])(seen)
'''


@pytest.fixture
def resolve(tmp_path: Path):
    """Resolve a recipe of one calibrated step on a tiny Llama, after changing files and settings."""
    (tmp_path / "ops.py").write_text(OPS)
    (tmp_path / "text.txt").write_text("some text")
    folder = save_tiny(tmp_path / "base", layers=2)
    (folder / "tokenizer.json").write_text("{}")

    def go(op: str = "cal.row", steps=None, **settings):
        document = {
            "surgery": 1,
            "models": {"base": "./base"},
            "calibration": {"text": "text.txt", "length": 16, **settings},
            "steps": steps or {"x": {"op": op, "model": "base", "where": "mlp"}},
            "output": {"model": "x", "to": "./out"},
        }
        text = yaml.safe_dump(document, sort_keys=False)
        return surgery.loads(text, folder=tmp_path, plugins=[tmp_path / "ops.py"]).resolve().plan

    return go


def nodes(plan):
    return [tensor.node for tensor in plan.outputs[0].tensors]


def findings(resolve, *args, **settings) -> list[str]:
    with pytest.raises(PlanError) as error:
        resolve(*args, **settings)
    return [finding.what for finding in error.value.findings]


def test_a_calibration_knows_the_model_and_the_calls(resolve, tmp_path):
    (found,) = calibrations_of(nodes(resolve()))
    assert (found.step, found.settings.samples, found.texts) == ("x", 128, (tmp_path / "text.txt",))
    assert sorted(found.sidecars) == ["tokenizer.json"]
    assert len(found.members) == 6
    assert found.roles["model.layers.1.mlp.up_proj.weight"].layer == 1
    assert found.nodes.keys() == found.roles.keys() > found.members.keys()


def test_hidden_states_on_prompts_are_nothing_that_a_step_can_have(resolve):
    assert findings(resolve, "cal.states") == [
        "`cal.states` needs hidden states on prompts, which only a layout op can give it; call it from one"
    ]


def test_inner_calibrations_come_first(resolve):
    inner = {"op": "cal.row", "model": "base", "where": "mlp"}
    steps = {"y": inner, "x": {"op": "cal.row", "model": "y", "where": "attention"}}
    assert [c.step for c in calibrations_of(nodes(resolve(steps=steps)))] == ["y", "x"]


def test_the_digest_knows_text_and_settings(resolve, tmp_path):
    def digest(**settings):
        return Digests().calibration(calibrations_of(nodes(resolve(**settings)))[0])

    first = digest()
    assert first == digest()
    assert len({first, digest(samples=3), digest(length=8), digest(seed=1)}) == 4
    (tmp_path / "text.txt").write_text("other text")
    assert digest() != first


def test_everything_that_is_missing_is_found_at_once(resolve, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    (tmp_path / "base" / "tokenizer.json").unlink()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "text.txt").write_bytes(b"a\xff")
    assert findings(resolve) == [
        "`cal.row` runs the model with transformers, which is missing; install `model-surgery[hf]`",
        "`cal.row` runs the model, ./base has no config.json with `model_type`; add it",
        "`cal.row` runs the model on text, ./base has no tokenizer; add its files",
        "text.txt is no UTF-8 text: byte 1 is 0xff; convert it",
    ]


def test_more_tokens_than_the_model_reads_are_refused(resolve, tmp_path):
    most = json.loads((tmp_path / "base" / "config.json").read_text())["max_position_embeddings"]
    said = f"{most + 1} tokens are more than the {most} that `base` reads; lower it"
    assert findings(resolve, length=most + 1) == [said]


def test_an_op_that_must_see_all_blocks_at_once_is_refused(resolve):
    assert findings(resolve, "cal.model")[0] == (
        "`cal.model` needs activations and does not make one tensor of one; "
        "an op with `needs` is split by element, row, reduce or tensor, and emits nothing"
    )


def test_costs_are_known_without_torch_and_transformers():
    code = "import sys, surgery.schedule.calibrations; print({'torch', 'transformers'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


def test_a_step_may_have_a_text_of_its_own(resolve, tmp_path):
    (tmp_path / "own.txt").write_text("another text")
    own = {"op": "cal.row", "model": "base", "where": "mlp", "calibration": {"text": "own.txt", "length": 8}}
    (found,) = calibrations_of(nodes(resolve(steps={"x": own})))
    assert (found.texts, found.settings.length) == ((tmp_path / "own.txt",), 8)


def test_what_is_wrong_with_a_steps_own_text_is_told_where_it_stands(resolve):
    own = {
        "op": "cal.row",
        "model": "base",
        "where": "mlp",
        "calibration": {"text": "none.txt", "length": 4096},
    }
    with pytest.raises(PlanError) as error:
        resolve(steps={"x": own})
    assert [finding.path for finding in error.value.findings] == [
        "steps.x.calibration.length",
        "steps.x.calibration.text",
    ]
