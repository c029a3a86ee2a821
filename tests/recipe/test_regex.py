from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from surgery.recipe.regex import search_in

SLOW = "a repetition of what leaves a choice takes too long; unnest it"
MANY = "more than 5 parts of variable length take too long; write fewer"


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("q_proj|k_proj", "model.layers.0.self_attn.k_proj.weight", True),
        ("q_proj|k_proj", "model.layers.0.self_attn.v_proj.weight", False),
        (r"^model\.layers\.\d+\.(mlp|self_attn)\..*weight$", "model.layers.11.mlp.up_proj.weight", True),
        (r"layers\.(?!0\.)\d+", "model.layers.0.norm", False),
        (r"layers\.(?!0\.)\d+", "model.layers.3.norm", True),
        ("(?i)NORM", "input_layernorm", True),
        (r"(\.\d+)?\.norm", "layers.norm", True),
        (r"(?:ab){2,9}c", "xababc", True),
        (r"(a|b){2}c", "abc", True),
        ("", "anything", True),
    ],
)
def test_a_pattern_is_found_anywhere_in_the_name(pattern: str, text: str, found: bool) -> None:
    assert search_in(pattern)(text) is found


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "missing ), unterminated subpattern at position 0"),
        ("*", "nothing to repeat at position 0"),
        ("[[a]", "Possible nested set at position 1"),
        ("a{99999999999}", "the repetition number is too large"),
        ("(a+)+", SLOW),
        ("(a*)*b", SLOW),
        ("(ab|a.)*c", SLOW),
        ("(?:x(?:a?){20})", SLOW),
        ("(?=(a+)+)", SLOW),
        ("(?>(a+)+b)", SLOW),
        ("((a+){2}){9}", SLOW),
        ("(a)(?(1)(b+)*|c)", SLOW),
        (".*a.*b.*c.*d.*e.*f", MANY),
        ("((a+){3}){2}", MANY),
    ],
)
def test_a_pattern_that_is_wrong_or_may_take_long_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        search_in(pattern)


def test_the_slowest_pattern_that_is_allowed_takes_little_time_on_a_name() -> None:
    test = search_in("a*a*a*a*a*b")
    start = time.perf_counter()
    assert not test("a" * 40)
    assert time.perf_counter() - start < 5


@given(st.text(max_size=20) | st.text("ab(|)*+?{1,9}[]\\^$.:=!<>P", max_size=30))
@example("(" * 5000 + ")" * 5000)
def test_any_pattern_is_usable_or_refused_with_a_value_error(pattern: str) -> None:
    try:
        test = search_in(pattern)
    except ValueError:
        return
    assert test("ab" * 10) in (True, False)
