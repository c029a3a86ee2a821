"""One self-contained HTML page: light and dark, readable on a phone and on paper, without script or network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from surgery.report.axes import safe

_NUMBER: Final = re.compile(r"[+-]?\d[\d,.]*(e[+-]?\d+)?( ?[^\W\d]{1,5}(/s)?| ?%)?")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page. The heading is text; the body is HTML, escaped by whoever made it."""

    heading: str
    body: str


def page(title: str, sections: Sequence[Section]) -> str:
    """Return a whole HTML document: the title, then each section below its heading."""
    parts = [
        f"<section>\n<h2>{safe(section.heading)}</h2>\n{section.body}\n</section>" for section in sections
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{safe(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{safe(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table of text; columns of numbers, with a unit or not, stand to the right.

    A header that is all blank is left out.
    """
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    head = "".join(_cell("th", text, at_right) for text, at_right in zip(header, right, strict=True))
    lines = [
        "<tr>"
        + "".join(_cell("td", text, at_right) for text, at_right in zip(row, right, strict=True))
        + "</tr>"
        for row in rows
    ]
    body = "\n".join(lines)
    top = f"<thead><tr>{head}</tr></thead>\n" if any(header) else ""
    return f'<div class="wide"><table>\n{top}<tbody>\n{body}\n</tbody>\n</table></div>'


def listing(text: str) -> str:
    """Return text as HTML that keeps its lines."""
    return "<pre><code>" + "\n".join(safe(line) for line in text.splitlines()) + "</code></pre>"


def _is_number(text: str) -> bool:
    return text in ("", "-") or _NUMBER.fullmatch(text) is not None


def _cell(tag: str, text: str, right: bool) -> str:
    kind = ' class="num"' if right else ""
    return f"<{tag}{kind}>{safe(text)}</{tag}>"


# Eight hues that people with colour blindness tell apart (after Okabe and Ito 2008), lighter on dark ground.
_LIGHT: Final = ("#0072b2", "#d55e00", "#009e73", "#b5589b", "#8a7600", "#3a9ad9", "#c0392b", "#5b6773")
_DARK: Final = ("#5ab4e8", "#ff9248", "#3dcf9f", "#e29acb", "#e6d34f", "#9bd3f7", "#ff8a7d", "#a9b4c0")


def _variables(colours: Sequence[str], ink: str, ground: str, soft: str, rule: str) -> str:
    hues = " ".join(f"--c{i}: {colour};" for i, colour in enumerate(colours))
    return f"--ink: {ink}; --ground: {ground}; --soft: {soft}; --rule: {rule}; {hues}"


_PAPER: Final = _variables(_LIGHT, "#1d2733", "#ffffff", "#5b6773", "#dde3e9")
_NIGHT: Final = _variables(_DARK, "#e3e8ee", "#14181d", "#9aa5b1", "#2f3842")
_HUES: Final = "\n".join(
    f".curve.c{i} {{ stroke: var(--c{i}); }} .f{i} {{ fill: var(--c{i}); }}" for i in range(len(_LIGHT))
)

STYLE: Final = f"""\
:root {{ {_PAPER} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_NIGHT} }} }}
* {{ box-sizing: border-box; }}
body {{ font: 15px/1.5 system-ui, Helvetica, Arial, "DejaVu Sans", sans-serif; color: var(--ink);
  background: var(--ground); max-width: 62rem; margin: 0 auto; padding: 1rem 1rem 4rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; line-height: 1.25; margin: 1rem 0; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--rule); }}
h3 {{ font-size: 1rem; margin: 1.2rem 0 .4rem; }}
p {{ margin: .5rem 0; max-width: 46rem; }}
.note, .empty {{ color: var(--soft); }}
pre {{ padding: .8rem; overflow-x: auto; border: 1px solid var(--rule); border-radius: .3rem; overflow-wrap: normal;
  font-size: .85rem; line-height: 1.4; }}
code {{ font-family: ui-monospace, "DejaVu Sans Mono", monospace; }}
.wide, .chart {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0;
  border-bottom: 1px solid var(--rule); }}
th {{ color: var(--soft); font-weight: 600; white-space: nowrap; }}
td {{ max-width: 32rem; overflow-wrap: anywhere; }}
.num {{ text-align: right; white-space: nowrap; }}
svg {{ width: 100%; min-width: 34rem; max-width: 52rem; height: auto; display: block; }}
svg text {{ font: 12px system-ui, Helvetica, Arial, "DejaVu Sans", sans-serif; fill: var(--ink); }}
svg .axis {{ fill: var(--soft); }}
.grid {{ stroke: var(--rule); fill: none; }} .line {{ stroke: var(--soft); fill: none; }}
.curve {{ fill: none; stroke-width: 1.8; stroke-linejoin: round; }}
.heat {{ fill: var(--c0); }} .none {{ fill: none; stroke: var(--rule); stroke-dasharray: 2 2; }}
{_HUES}
@media print {{ body {{ max-width: none; padding: 0; }} section {{ break-inside: avoid-page; }}
  pre {{ white-space: pre-wrap; }} }}
"""
