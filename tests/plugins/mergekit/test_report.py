"""The migration report: what is otherwise here, said where it is."""

from __future__ import annotations

import pytest

HEAD = "Ramps end at the final norm and the head"
INVERSE = "`rescale: true` of dare_ties multiplies survivors by 1/density"
MASKS = "Random masks are other ones than mergekit's"
ROUNDED = "Inputs are rounded to bfloat16 as in mergekit, but computed with in float32"
CLAMP = "The interpolation factor is not clamped"
PADDING = "Rows that pad a vocabulary are kept"


def document(method: str, weight: str = "1", rest: str = "") -> str:
    return (
        f"merge_method: {method}\nbase_model: base\nmodels: [{{model: a}}, {{model: b}}]\n"
        f"parameters: {{weight: {weight}}}\n{rest}"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (document("ties"), []),
        (document("ties", "[0, 1]"), [HEAD]),
        (document("ties", "[{filter: mlp, value: [0, 1]}, {value: 1}]"), [HEAD]),
        (document("ties", "[0, 1]", "compat: mergekit"), []),
        (document("dare_ties"), [INVERSE, MASKS]),
        (document("dare_ties", rest="compat: mergekit"), [MASKS]),
        (document("ties", rest="dtype: bfloat16"), [ROUNDED]),
        (document("ties", rest="dtype: float32"), []),
        (document("model_stock"), [CLAMP]),
        (document("ties", rest="tokenizer_source: base"), [PADDING]),
    ],
)
def test_the_report_says_what_is_otherwise_and_nothing_else(translate, text, said):
    report = translate(text).report
    assert len(report) == len(said)
    assert all(line.startswith(begin) for line, begin in zip(report, said, strict=True))


def test_defaults_are_marked(translate):
    assert translate(document("ties")).comments == {
        ("steps", "merged", "lambda"): "mergekit's default",
        ("steps", "merged", "normalize"): "mergekit's default",
        ("steps", "merged", "rescale"): "mergekit's default",
    }
