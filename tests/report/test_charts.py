from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from surgery.report.charts import bar_chart, heatmap, line_chart

EVIL = '</svg><script>alert("x")</script>&\x07'


def parsed(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(chart)


def titles(chart: str) -> list[str]:
    return [element.text or "" for element in parsed(chart).iter("{http://www.w3.org/2000/svg}title")]


def texts(chart: str) -> list[str]:
    return [element.text or "" for element in parsed(chart).iter("{http://www.w3.org/2000/svg}text")]


def test_a_line_goes_through_its_points():
    chart = line_chart({"loss": [(0, 0), (10, 100)]}, x_label="trial", y_label="loss")
    path = re.search(r'class="curve c0" d="M(\S+) (\S+)L(\S+) (\S+)"', chart)
    left, bottom, right, top = map(float, path.groups())
    assert left < right == 704
    assert (bottom, top) == (254, 14)
    assert titles(chart) == ["loss", "loss: 0, 0", "loss: 10, 100"]
    assert {"trial", "0", "100"} <= set(texts(chart))


def test_several_lines_have_a_legend_and_one_has_none():
    two = line_chart({"a": [(0, 1)], "b": [(1, 2)]}, x_label="x", y_label="y")
    assert {"a", "b"} <= set(texts(two))
    assert "a" not in texts(line_chart({"a": [(0, 1)]}, x_label="x", y_label="y"))


def test_what_cannot_be_drawn_is_left_out():
    points = [(0, 1.0), (1, math.nan), (2, math.inf), (3, -1.0), (4, 10.0)]
    assert line_chart({"a": points}, x_label="x", y_label="y").count("<circle") == 3
    assert line_chart({"a": points}, x_label="x", y_label="y", log_y=True).count("<circle") == 2


@pytest.mark.parametrize(
    "chart",
    [
        line_chart({}, x_label="x", y_label="y"),
        line_chart({"a": [(0, -1)]}, x_label="x", y_label="y", log_y=True),
        bar_chart({"a": math.nan}, y_label="y"),
        heatmap(["a"], ["b"], {}, label="x"),
    ],
)
def test_nothing_to_draw_is_said(chart):
    assert chart == '<p class="empty">nothing to draw</p>'


def test_many_points_are_a_line_without_dots():
    chart = line_chart({"a": [(i, i) for i in range(1000)]}, x_label="x", y_label="y")
    assert chart.count("<circle") == 0
    assert chart.count("L") == 999


def test_bars_are_as_long_as_their_values():
    chart = bar_chart({"a": 10, "b": 5, "c": -5}, y_label="MiB")
    widths = [float(x) for x in re.findall(r'class="f0"[^>]* width="([\d.]+)"', chart)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    assert widths[2] == pytest.approx(widths[1], abs=0.2)
    assert titles(chart) == ["a: 10", "b: 5", "c: -5"]


def test_a_cell_is_the_darker_the_larger():
    chart = heatmap(
        ["r"], ["a", "b", "c"], {("r", "a"): 1, ("r", "b"): 10, ("r", "c"): 100}, label="x", log=True
    )
    cells = re.findall(r'fill-opacity="([\d.]+)"><title>(.*?)</title>', chart)
    assert cells == [("0.060", "r, a: 1"), ("0.530", "r, b: 10"), ("1.000", "r, c: 100")]
    plain = heatmap(["r"], ["a", "b", "c"], {("r", "a"): 1, ("r", "b"): 10, ("r", "c"): 100}, label="x")
    assert 'fill-opacity="0.145"><title>r, b: 10' in plain


def test_a_pair_without_a_value_is_an_empty_cell():
    chart = heatmap(["r"], ["a", "b"], {("r", "a"): 1, ("no", "a"): 3, ("r", "b"): math.inf}, label="x")
    assert chart.count('class="none"') == 1
    assert "r, b: -" in titles(chart)
    assert "1 to 1" in texts(chart)


@pytest.mark.parametrize(
    "chart",
    [
        line_chart({EVIL: [(0, 1)], "b": [(0, 2)]}, x_label=EVIL, y_label=EVIL),
        bar_chart({EVIL: 1}, y_label=EVIL),
        heatmap([EVIL], [EVIL], {(EVIL, EVIL): 1}, label=EVIL),
    ],
)
def test_hostile_names_stay_text(chart):
    tree = parsed(chart)  # well-formed XML
    assert {element.tag.rpartition("}")[2] for element in tree.iter()} <= {
        "div", "svg", "g", "path", "text", "title", "rect", "circle"
    }  # fmt: skip
    assert any("alert" in text for text in titles(chart) + texts(chart))
