"""What ops say of their sources, as BibTeX.

An op's `cite` names one work or several, apart by `; `: `Authors YEAR, Title, Venue, arXiv:ID, detail (detail)`.
Venue, arXiv number and details may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from surgery import __version__

_WORK: Final = re.compile(r"(?P<authors>[^\d;]+?) (?P<year>(?:19|20)\d\d), (?P<rest>.+)", re.DOTALL)
_ARXIV: Final = re.compile(r", arXiv:(?P<id>\d{4}\.\d{4,5})(?P<detail>.*)", re.DOTALL)
_DETAIL: Final = re.compile(r"(?P<rest>.*?)(?:,? \((?P<detail>[^()]+)\))$", re.DOTALL)
_VENUE: Final = re.compile(
    r"(?P<title>.+), (?P<venue>ICLR|ICML|NeurIPS|[A-Z]*ACL|EMNLP|CVPR|ICCV|ECCV|COLM)(?P<year> \d{4})?$"
)
_SECTION: Final = re.compile(
    r"(?P<rest>.+), (?P<detail>(?:section|equation|algorithm|theorem|table) [\w.]+)$", re.DOTALL
)
_SMALL: Final = frozenset(
    {"a", "an", "the", "of", "on", "in", "and", "for", "to", "with", "by", "from", "is", "are"}
)


class Cited(Protocol):
    """What comes from papers: an op, a sampler, an evaluator."""

    @property
    def name(self) -> str:
        """The name in a recipe."""

    @property
    def cite(self) -> str:
        """The papers, in the form above; empty if there is none."""


@dataclass(frozen=True, slots=True)
class Work:
    """A paper; `ops` are those that come from it."""

    authors: tuple[str, ...]
    year: str
    title: str
    venue: str = ""
    arxiv: str = ""
    detail: str = ""
    ops: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return what a text cites it by: first author, year, first word of the title that says something."""
        words = [word for word in re.findall(r"[a-z0-9]+", self.title.lower()) if word not in _SMALL]
        author = re.sub(r"[^a-z]", "", self.authors[0].split()[-1].lower())
        return f"{author}{self.year}{words[0] if words else ''}"

    def bibtex(self) -> str:
        """Return the entry."""
        fields = {
            "author": " and ".join(self.authors),
            "title": f"{{{self.title}}}",
            "year": self.year,
            "booktitle": self.venue,
            "eprint": self.arxiv,
            "archivePrefix": "arXiv" if self.arxiv else "",
            "url": f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else "",
            "note": self.detail,
        }
        lines = [f"  {name} = {{{_escaped(text)}}}," for name, text in fields.items() if text]
        kind = "inproceedings" if self.venue else "misc"
        return "\n".join([f"% {', '.join(self.ops)}", f"@{kind}{{{self.key},", *lines, "}"])


def works_in(cite: str) -> list[Work]:
    """Return the works that an op's `cite` names. Raises ValueError for text that is not in the form above."""
    return [_work(part.strip()) for part in cite.split("; ")]


def bibliography(ops: Iterable[Cited]) -> str:
    """Return the BibTeX of what ops, or samplers, come from, each work once, and of this program.

    A source in another form than ours stands as a comment.
    """
    works: dict[str, Work] = {}
    odd: list[str] = []
    for op in ops:
        try:
            found = works_in(op.cite) if op.cite else []
        except ValueError:
            odd.append(f"% {op.name}: {op.cite}")
            continue
        for work in found:
            same = work.arxiv or work.key
            works[same] = _joined(works.get(same, work), work, op.name)
    entries = [work.bibtex() for work in sorted(works.values(), key=lambda work: work.key)]
    return "\n\n".join([*entries, *odd, _ourselves()]) + "\n"


def _joined(known: Work, again: Work, name: str) -> Work:
    """Return a work that one more op comes from; the longer title is the whole one, a detail is one op's own."""
    fuller = max(known, again, key=lambda work: len(work.title))
    detail = known.detail if known.detail == again.detail else ""
    return replace(fuller, detail=detail, ops=(*known.ops, name))


def _work(text: str) -> Work:
    whole = _WORK.fullmatch(text)
    if whole is None:
        raise ValueError(f"`{text}` is not `Authors YEAR, Title, ...`")
    rest, arxiv, detail = whole["rest"], "", ""
    if found := _ARXIV.search(rest):
        rest, arxiv, detail = rest[: found.start()], found["id"], found["detail"].strip(" ,()")
    elif found := _DETAIL.fullmatch(rest) or _SECTION.fullmatch(rest):
        rest, detail = found["rest"], found["detail"]
    venue = _VENUE.fullmatch(rest)
    title = venue["title"] if venue else rest
    where = f"{venue['venue']}{venue['year'] or ''}" if venue else ""
    return Work(_authors(whole["authors"]), whole["year"], title, where, arxiv, detail)


def _authors(text: str) -> tuple[str, ...]:
    if text.endswith(" et al."):
        return (*_authors(text.removesuffix(" et al.")), "others")
    return tuple(filter(None, re.split(r",? & |,? and |, ", text)))


def _escaped(text: str) -> str:
    return re.sub(r"([&%#_])", r"\\\1", text)


def _ourselves() -> str:
    return "\n".join(
        [
            "@software{modelsurgery,",
            "  title = {{model-surgery}},",
            f"  version = {{{__version__}}},",
            "  note = {the program that made the model},",
            "}",
        ]
    )
