from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import Finding
from surgery.plan.drawing import draw_page, draw_svg
from surgery.plan.summary import ModelSummary, OutputSummary, StepSummary, Summary

SVG = "{http://www.w3.org/2000/svg}"
BLUE, AMBER, GREEN, GREY = "#e4effb", "#fdf2dd", "#e2f4e6", "#f3f3f3"


def summary_of(steps: dict[str, list[str]], outputs: dict[str, str], models: str | list[str]) -> Summary:
    return Summary(
        models=tuple(ModelSummary(name, f"./{name}", 3, 10, 2048, ("F32",)) for name in models),
        steps=tuple(
            StepSummary(s, "merge.linear", reads[0], tuple(reads), 2, 1) for s, reads in steps.items()
        ),
        outputs=tuple(
            OutputSummary(name, of, Path("/x/out"), 3, 10, 2048, ("F32",), 1) for name, of in outputs.items()
        ),
        bytes_read=4096,
        bytes_written=2048,
        peak=1 << 20,
        budget=1 << 30,
        workers=1,
        warnings=(Finding("careful <b>"),),
    )


def graph_of(summary: Summary) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(model.name for model in summary.models)
    for step in summary.steps:
        graph.add_node(step.name)
        graph.add_edges_from((name, step.name) for name in step.inputs)
    graph.add_edges_from((output.model, f"-> {output.name}") for output in summary.outputs)
    return graph


CHAIN = summary_of({"first": ["a", "b"], "second": ["first", "a"]}, {"result": "second"}, "ab")


class Boxes:
    """The boxes of a drawing by title: left, top, right, bottom, fill; and the edges' ends."""

    def __init__(self, svg: str) -> None:
        root = ElementTree.fromstring(svg)
        self.size = [float(part) for part in root.attrib["viewBox"].split()]
        self.at: dict[str, tuple[float, float, float, float]] = {}
        self.fill: dict[str, str] = {}
        self.texts: dict[str, list[str]] = {}
        for group in root.findall(f"{SVG}g"):
            rect = group.find(f"{SVG}rect")
            assert rect is not None
            x, y, width, height = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
            title, *details = [text.text or "" for text in group.findall(f"{SVG}text")]
            self.at[title] = (x, y, x + width, y + height)
            self.fill[title] = rect.attrib["fill"]
            self.texts[title] = details
        self.paths = [path.attrib["d"] for path in root.findall(f"{SVG}path")]
        self.dashed = [path for path in root.findall(f"{SVG}path") if "stroke-dasharray" in path.attrib]


def test_what_is_read_stands_left_of_what_reads_it():
    boxes = Boxes(draw_svg(graph_of(CHAIN), CHAIN))
    for source, target in [("a", "first"), ("b", "first"), ("first", "second"), ("second", "result")]:
        assert boxes.at[source][2] < boxes.at[target][0]


def test_models_steps_and_outputs_differ_in_colour():
    boxes = Boxes(draw_svg(graph_of(CHAIN), CHAIN))
    assert boxes.fill == {"a": BLUE, "b": BLUE, "first": AMBER, "second": AMBER, "result": GREEN}


def test_a_box_says_what_its_node_is():
    boxes = Boxes(draw_svg(graph_of(CHAIN), CHAIN))
    assert boxes.texts["a"] == ["./a", "3 tensors, 2.0 KiB"]
    assert boxes.texts["first"] == ["merge.linear", "2 applied, 1 copied"]
    assert boxes.texts["result"] == ["out", "3 tensors, 2.0 KiB"]


def test_the_way_from_the_base_is_dashed():
    assert len(Boxes(draw_svg(graph_of(CHAIN), CHAIN)).dashed) == 2


def test_what_is_not_needed_is_grey():
    graph = graph_of(CHAIN)
    graph.add_edge("lost", "idle")
    boxes = Boxes(draw_svg(graph, CHAIN))
    assert boxes.fill["idle"] == boxes.fill["lost"] == GREY
    assert boxes.texts["idle"] == ["not needed"]


def test_a_late_source_stands_next_to_its_reader():
    late = summary_of({"one": ["a"], "two": ["one"], "three": ["two", "b"]}, {"x": "three"}, "ab")
    boxes = Boxes(draw_svg(graph_of(late), late))
    assert boxes.at["b"][0] == boxes.at["two"][0]


def test_an_edge_that_passes_a_column_runs_beside_its_boxes():
    boxes = Boxes(draw_svg(graph_of(CHAIN), CHAIN))
    passing = [path for path in boxes.paths if "H" in path]
    assert len(passing) == 1  # from a to second, past first
    y = float(re.findall(r"[\d.-]+", passing[0].partition("H")[0])[-1])
    _, top, _, bottom = boxes.at["first"]
    assert not top <= y <= bottom


def test_long_and_hostile_texts_are_cut_and_escaped():
    name = "<script>\x1b" + "x" * 100
    hostile = summary_of({}, {"out": name}, [name])
    svg = draw_svg(graph_of(hostile), hostile)
    assert "<script>" not in svg
    assert Boxes(svg).texts["out"] == ["out", "3 tensors, 2.0 KiB"]
    assert max(map(len, Boxes(svg).at)) == 36


def test_the_same_plan_gives_the_same_drawing():
    assert draw_svg(graph_of(CHAIN), CHAIN) == draw_svg(graph_of(CHAIN), CHAIN)


def test_an_empty_graph_is_an_empty_picture():
    nothing = summary_of({}, {}, "")
    assert Boxes(draw_svg(nx.DiGraph(), nothing)).at == {}


@st.composite
def plans(draw: st.DrawFn) -> Summary:
    models = [f"m{i}" for i in range(draw(st.integers(1, 4)))]
    steps: dict[str, list[str]] = {}
    for i in range(draw(st.integers(0, 6))):
        known = [*models, *steps]
        steps[f"s{i}"] = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
    outputs = {f"o{i}": draw(st.sampled_from([*models, *steps])) for i in range(draw(st.integers(1, 3)))}
    return summary_of(steps, outputs, models)


@given(plans())
def test_no_two_boxes_touch_and_all_lie_in_the_picture(summary):
    boxes = Boxes(draw_svg(graph_of(summary), summary))
    left, top, width, height = boxes.size
    placed = list(boxes.at.values())
    assert len(placed) == len(summary.models) + len(summary.steps) + len(summary.outputs)
    for i, (x0, y0, x1, y1) in enumerate(placed):
        assert left < x0 < x1 < left + width
        assert top < y0 < y1 < top + height
        for a0, b0, a1, b1 in placed[:i]:
            assert x1 < a0 or a1 < x0 or y1 < b0 or b1 < y0


def test_a_page_holds_the_drawing_the_tables_and_the_warnings():
    page = draw_page(graph_of(CHAIN), CHAIN, "mix & match.yaml")
    assert draw_svg(graph_of(CHAIN), CHAIN) in page
    assert "<title>mix &amp; match.yaml</title>" in page
    assert "<td>first</td><td>merge.linear</td><td>a, b</td><td>2</td><td>1</td>" in page
    assert "<p>warning: careful &lt;b&gt;</p>" in page
    assert "reads 4.0 KiB, writes 2.0 KiB, 1.0 MiB of memory at most" in page


@pytest.mark.parametrize("loaded", ["<script", "href=", "src=", "url(http", "@import"])
def test_a_page_loads_nothing(loaded):
    assert loaded not in draw_page(graph_of(CHAIN), CHAIN, "mix.yaml")
