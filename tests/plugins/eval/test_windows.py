from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surgery_eval._windows import Window, batches, windows


def test_windows_of_four_tokens_with_three_new_ones():
    assert list(windows(10, 4, 3)) == [Window(0, 4, 3), Window(3, 7, 3), Window(6, 10, 3)]


def test_a_short_stride_gives_more_context():
    assert list(windows(7, 4, 2)) == [Window(0, 4, 3), Window(2, 6, 2), Window(3, 7, 1)]


def test_a_short_text_is_one_window():
    assert list(windows(3, 8, 7)) == [Window(0, 3, 2)]
    assert list(windows(1, 8, 7)) == []


@given(st.integers(0, 200), st.integers(2, 20), st.data())
def test_every_token_but_the_first_is_predicted_once_with_context(count, length, data):
    stride = data.draw(st.integers(1, length - 1))
    predicted = []
    for window in windows(count, length, stride):
        assert 0 <= window.start < window.stop - window.scored
        assert window.stop - window.start <= length
        predicted += range(window.stop - window.scored, window.stop)
    assert predicted == list(range(1, count))


def test_batches_hold_windows_of_one_shape_up_to_the_limit():
    found = list(windows(12, 4, 3))
    assert [len(batch) for batch in batches(found, 2)] == [2, 1, 1]
    assert [window for batch in batches(found, 2) for window in batch] == found
