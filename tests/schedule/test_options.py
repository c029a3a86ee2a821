from __future__ import annotations

import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from surgery import ResourceError, RunOptions
from surgery.schedule import options as module
from surgery.schedule.options import SMALLEST_BUDGET, available_memory

MIB = 2**20
MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Lets the files that tell of memory say something else; None for a file that is not there."""

    def say(**files: str | None) -> None:
        def read(self: Path, *args: object, **settings: object) -> str:
            text = files.get(self.name.replace(".", "_"))
            if text is None:
                raise FileNotFoundError(self)
            return text

        monkeypatch.setattr(Path, "read_text", read)

    return say


def test_options_have_defaults_and_never_change():
    options = RunOptions()
    assert (options.device, options.resume, options.force) == ("auto", True, False)
    with pytest.raises(FrozenInstanceError):
        options.force = True  # type: ignore[misc]


def test_the_budget_is_what_the_user_gives():
    assert RunOptions(memory=100 * MIB).budget() == 100 * MIB
    assert RunOptions(memory=SMALLEST_BUDGET).budget() == SMALLEST_BUDGET


def test_too_little_memory_is_refused():
    with pytest.raises(ResourceError) as error:
        RunOptions(memory=MIB).budget()
    assert str(error.value) == "--memory: 1.0 MiB is too little; give at least 64.0 MiB"


def test_by_default_the_budget_is_a_quarter_of_what_is_free(machine):
    machine(meminfo=MEMINFO)
    assert available_memory() == 8_000_000 * 1024
    assert RunOptions().budget() == 2_000_000 * 1024


def test_the_default_budget_is_never_below_the_smallest(machine):
    machine(meminfo="MemAvailable: 1000 kB\n")
    assert RunOptions().budget() == SMALLEST_BUDGET


@pytest.mark.parametrize(
    "files",
    [
        {"memory_max": f"{500 * MIB}\n", "memory_current": f"{100 * MIB}\n"},
        {"memory_limit_in_bytes": f"{500 * MIB}\n", "memory_usage_in_bytes": f"{100 * MIB}\n"},
    ],
    ids=["version 2", "version 1"],
)
def test_a_control_group_may_allow_less(machine, files):
    machine(meminfo=MEMINFO, **files)
    assert available_memory() == 400 * MIB


def test_a_control_group_without_a_limit_allows_everything(machine):
    machine(meminfo=MEMINFO, memory_max="max\n", memory_current=f"{100 * MIB}\n")
    assert available_memory() == 8_000_000 * 1024


def test_a_control_group_that_is_full_leaves_nothing(machine):
    machine(meminfo=MEMINFO, memory_max="100\n", memory_current="200\n")
    assert available_memory() == 0


def test_without_proc_half_the_machine_is_taken_as_free(machine):
    machine()
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert available_memory() == pages // 2


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (4, 4), (64, 8)])
def test_by_default_there_is_a_worker_a_core_and_eight_at_most(monkeypatch, cores, workers):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(cores)))
    assert RunOptions().workers() == workers
    assert RunOptions(threads=13).workers() == 13
