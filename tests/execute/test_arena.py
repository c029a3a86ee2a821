from __future__ import annotations

import pytest
import torch

from surgery.execute.arena import Arena


@pytest.fixture
def arena() -> Arena:
    return Arena(torch.device("cpu"))


def test_buffers_taken_together_do_not_overlap(arena):
    buffers = [arena.take(100, torch.float32) for _ in range(5)] + [arena.take(100, torch.float64)]
    for index, buffer in enumerate(buffers):
        buffer.fill_(index)
    assert [float(buffer.unique()) for buffer in buffers] == [0, 1, 2, 3, 4, 5]


def test_after_a_reset_the_same_memory_is_handed_out_again(arena):
    first = [arena.take(100, torch.float32).data_ptr() for _ in range(3)]
    staging = arena.staging(50).raw.data_ptr()
    arena.reset()
    assert [arena.take(100, torch.float32).data_ptr() for _ in range(3)] == first
    assert arena.staging(50).raw.data_ptr() == staging


def test_a_shorter_buffer_is_a_part_of_a_longer_one(arena):
    longer = arena.take(100, torch.float32)
    arena.reset()
    shorter = arena.take(10, torch.float32)
    assert shorter.numel() == 10
    assert shorter.data_ptr() == longer.data_ptr()


def test_a_longer_buffer_takes_the_place_of_a_shorter_one(arena):
    arena.take(10, torch.float32)
    arena.reset()
    assert arena.take(1000, torch.float32).numel() == 1000
    arena.reset()
    assert arena.take(500, torch.float32).numel() == 500


def test_staging_that_is_given_back_is_used_for_the_next_input(arena):
    first = arena.staging(10)
    second = arena.staging(10)
    arena.give_back_staging()
    assert arena.staging(10).raw.data_ptr() == second.raw.data_ptr() != first.raw.data_ptr()


def test_staging_is_the_same_bytes_to_files_and_to_torch(arena):
    staging = arena.staging(8)
    staging.memory[:] = torch.tensor([1.5, -2.0]).numpy().tobytes()
    assert staging.typed("F32").tolist() == [1.5, -2.0]
    assert bytes(staging.raw.tolist()) == bytes(staging.memory)


def test_views_are_made_once(arena):
    first, view = arena.staging(8), arena.take(10, torch.float32)
    typed = first.typed("BF16")
    arena.reset()
    assert arena.staging(8) is first
    assert first.typed("BF16") is typed
    assert arena.take(10, torch.float32) is view


def test_nothing_takes_no_memory(arena):
    assert arena.take(0, torch.float32).numel() == 0
    assert arena.staging(0).memory.nbytes == 0
