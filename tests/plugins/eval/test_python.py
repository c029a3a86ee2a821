"""eval.python: surgery_eval.python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from surgery.errors import SurgeryError
from surgery.host import Host
from surgery_eval.python import Python, PythonEvaluator

CODE = """
def total(tensors, scale=1.0):
    return scale * sum(float(t.sum()) for t in tensors.values())

def layers(model):
    return {"score": float(model.config.num_hidden_layers), "mode": float(model.training)}

number = 3
"""


@pytest.fixture
def evaluator():
    return PythonEvaluator.make()


def scored(evaluator, subject, tensors, **params):
    (subject.folder / "own.py").write_text(CODE)
    settings = Python(**params)
    evaluator.check(subject, settings)
    resident = evaluator.open(subject, settings)
    resident.load(tensors.items())
    return evaluator.score(resident, settings)


def test_a_function_of_a_file_gets_the_tensors(evaluator, subject, tensors):
    whole = sum(float(tensor.sum()) for tensor in tensors.values())
    assert scored(evaluator, subject, tensors, callable="own.py:total", gets="tensors") == whole
    twice = scored(
        evaluator, subject, tensors, callable="own.py:total", gets="tensors", arguments={"scale": 2.0}
    )
    assert twice == 2 * whole


def test_a_function_gets_the_model_in_evaluation_mode(evaluator, subject, tensors):
    assert scored(evaluator, subject, tensors, callable="own.py:layers") == {"score": 2.0, "mode": 0.0}


def test_a_function_of_a_module_is_found(evaluator, subject, tensors):
    assert scored(evaluator, subject, tensors, callable="builtins:len", gets="tensors") == len(tensors)


@pytest.mark.parametrize(
    ("callable", "told"),
    [
        ("own.py", "eval.python: `own.py` names no function; write `file.py:function` or `module:function`"),
        ("own.py:none", "eval.python: `own.py` has no function `none`; check `callable`"),
        ("own.py:number", "eval.python: `own.py` has no function `number`; check `callable`"),
        (
            "absent_module:f",
            "eval.python: `absent_module` does not import: ModuleNotFoundError: "
            "No module named 'absent_module'",
        ),
    ],
)
def test_what_is_no_function_is_told_before_the_first_candidate(evaluator, subject, callable, told):
    (subject.folder / "own.py").write_text(CODE)
    with pytest.raises(SurgeryError) as error:
        evaluator.check(subject, Python(callable=callable))
    assert str(error.value) == told


def test_it_says_that_it_runs_code():
    assert Host().evaluator("eval.python").executes


def test_scores_rest_on_the_functions_file(evaluator, subject):
    (subject.folder / "own.py").write_text(CODE)
    assert evaluator.files(subject, Python(callable="own.py:total")) == [subject.folder / "own.py"]
    for callable, files in (("json:dumps", [Path(json.__file__)]), ("builtins:len", [])):
        params = Python(callable=callable)
        evaluator.check(subject, params)
        assert evaluator.files(subject, params) == files
