"""Files that appear whole, and are found again."""

from __future__ import annotations

import pytest
import torch

from surgery import ResourceError
from surgery.calibrate.store import Store, forget_others


def filled(store: Store, block: int) -> None:
    with store.new_inputs(block, 3) as states:
        for sample in range(2):
            states.write(sample, torch.full((4, 3), float(10 * block + sample)))


def test_samples_are_read_back_by_number(tmp_path):
    store = Store(tmp_path / "a", (2, 4))
    assert store.reached() == -1
    filled(store, 0)
    states = store.inputs(0)
    assert (store.reached(), states.hidden) == (0, 3)
    assert states.read(1).tolist() == [[1.0] * 3] * 4
    states.close()


def test_the_inputs_of_the_next_block_replace_those_before(tmp_path):
    store = Store(tmp_path, (2, 4))
    for block in (0, 1, 2):
        filled(store, block)
    assert store.reached() == 2
    assert [file.name for file in tmp_path.iterdir()] == ["inputs-2.bin"]
    store.forget_inputs()
    assert store.reached() == -1


def test_what_was_not_finished_is_not_there(tmp_path):
    store = Store(tmp_path, (2, 4))
    filled(store, 0)

    def interrupted():
        with store.new_inputs(1, 3) as states:
            states.write(0, torch.zeros(4, 3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "inputs-1.bin.new").exists()
    again = Store(tmp_path, (2, 4))
    assert again.reached() == 0
    assert [file.name for file in tmp_path.iterdir()] == ["inputs-0.bin"]


def test_statistics_are_kept_to_the_last_bit(tmp_path):
    found = {"a/b.weight": {"squares": torch.rand(3, dtype=torch.float64), "tokens": torch.tensor([7.0])}}
    Store(tmp_path, (2, 4)).keep_statistics("block-0", found)
    again = Store(tmp_path, (2, 4)).statistics("block-0")
    assert again is not None
    assert again.keys() == found.keys()
    assert all(torch.equal(again["a/b.weight"][need], values) for need, values in found["a/b.weight"].items())
    assert Store(tmp_path, (2, 4)).statistics("block-1") is None


def test_a_file_that_became_shorter_is_an_error(tmp_path):
    store = Store(tmp_path, (2, 4))
    filled(store, 0)
    states = store.inputs(0)
    with (tmp_path / "inputs-0.bin").open("r+b") as file:
        file.truncate(60)
    with pytest.raises(ResourceError, match="calibration: a file of hidden states became shorter; run again"):
        states.read(1)
    states.close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"file/a: cannot be written: Not a directory; free some space"):
        Store(tmp_path / "file" / "a", (2, 4))


def test_only_other_calibrations_are_forgotten(tmp_path):
    for name in ("c-1", "c-2", "journal"):
        (tmp_path / name).mkdir()
    forget_others(tmp_path, "c-", {"c-2"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c-2", "journal"]
