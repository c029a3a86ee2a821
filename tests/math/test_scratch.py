from __future__ import annotations

import threading

import numpy as np

from surgery.math.scratch import scratch


def test_a_buffer_is_handed_out_again_and_grows() -> None:
    small = scratch("test", np.float32, 10)
    small[:] = 7.0
    assert scratch("test", np.float32, 4).tolist() == [7.0] * 4
    assert scratch("test", np.float32, 100).size == 100
    assert scratch("test", np.float32, 10).base is scratch("test", np.float32, 100).base


def test_uses_types_and_threads_have_their_own() -> None:
    mine = scratch("test", np.int32, 8)
    theirs: list[bool] = []
    thread = threading.Thread(
        target=lambda: theirs.append(np.shares_memory(mine, scratch("test", np.int32, 8)))
    )
    thread.start()
    thread.join()
    assert theirs == [False]
    assert not np.shares_memory(mine, scratch("other", np.int32, 8))
    assert not np.shares_memory(mine, scratch("test", np.uint32, 8))
