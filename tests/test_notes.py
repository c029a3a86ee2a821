"""Which numbers may be noted, and under which names."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from surgery.notes import note_energy, take_note


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        (3, 3),
        (0.5, 0.5),
        (-0.0, 0.0),
        (torch.tensor(2), 2),
        (torch.tensor([0.25]), 0.25),
        (np.float64(1.5), 1.5),
    ],
)
def test_integers_floats_and_tensors_of_one_are_numbers(number, kept):
    numbers: dict[str, float] = {}
    assert take_note(numbers, "Rank_of", number) is None
    assert numbers == {"Rank_of": kept}
    assert type(numbers["Rank_of"]) is type(kept)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ("1", "1"),
        (True, "True"),
        (None, "None"),
        (10**400, "1" + 39 * "0"),
        (torch.ones(2), "tensor([1., 1.])"),
        (torch.tensor(math.inf), "tensor(inf)"),
    ],
    ids=str,
)
def test_what_is_no_finite_number_is_refused(number, shown):
    numbers: dict[str, float] = {}
    assert take_note(numbers, "energy", number) == f"notes {shown} as `energy`, not a finite number,"
    assert numbers == {}


@pytest.mark.parametrize("name", ["", "two words", "r2", "é", "a-b", 3])
def test_names_are_of_letters_and_underscores(name):
    wrong = take_note({}, name, 1.0)
    assert wrong == f"notes a number as `{name}`, a name has letters and underscores only,"


def test_a_name_is_noted_once():
    numbers = {"rank": 1.0}
    assert take_note(numbers, "rank", 2.0) == "notes `rank` twice"
    assert numbers == {"rank": 1.0}


class Recorder(dict):
    note = dict.__setitem__


@pytest.mark.parametrize(
    ("kept", "whole", "noted"),
    [
        (1.0, 4.0, {"energy": 0.25}),
        (4.0 + 1e-15, 4.0, {"energy": 1.0}),
        (0.0, 0.0, {}),
        (math.inf, math.inf, {}),
        (math.nan, math.nan, {}),
    ],
)
def test_energy_is_a_share_of_something(kept, whole, noted):
    x = Recorder()
    note_energy(x, kept, whole)
    assert x == noted


def test_noting_needs_no_torch():
    code = "import sys, surgery.notes; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "False\n"
