from __future__ import annotations

import re
from html.parser import HTMLParser

from surgery.report.page import Section, page, table


class Seen(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]


def test_a_page_needs_nothing_but_itself():
    text = page("A title", [Section("One", "<p>body</p>")])
    seen = Seen(text)
    assert not {"script", "link", "img", "iframe"} & set(seen.tags)
    assert seen.links == []
    assert "url(" not in text
    assert "@import" not in text
    assert text.count("<p>body</p>") == 1


def test_light_and_dark_print_and_phone_are_provided_for():
    text = page("t", [])
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert 'name="viewport"' in text


def test_titles_and_headings_are_text():
    text = page("<b>", [Section("<i>&", "")])
    assert "<title>&lt;b&gt;</title>" in text
    assert "<h2>&lt;i&gt;&amp;</h2>" in text


def test_columns_of_numbers_stand_to_the_right():
    text = table(("name", "size", "share"), [("a", "1.5 MiB", "10 %"), ("b", "2,000 B", "")])
    assert re.findall(r"<td( class=\"num\")?>(.*?)</td>", text) == [
        ("", "a"), (' class="num"', "1.5 MiB"), (' class="num"', "10 %"),
        ("", "b"), (' class="num"', "2,000 B"), (' class="num"', ""),
    ]  # fmt: skip
    assert "<thead><tr><th>name</th>" in text


def test_a_number_among_words_makes_no_column_of_numbers():
    assert "num" not in table(("x",), [("1",), ("0.weight.of.what",)])


def test_a_blank_header_is_left_out():
    assert "<thead>" not in table(("", ""), [("a", "b")])


def test_cells_are_text():
    assert "<td>&lt;b&gt;</td>" in table(("x",), [("<b>",)])
