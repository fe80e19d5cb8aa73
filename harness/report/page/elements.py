"""Elements that the templates of a report page fill in: sections, tables with their links, links to files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from harness.report.content.sections import Cell, Head, Section
from harness.report.page.templates import render

LONG_CELL = 18
"""Characters from which a cell may break over lines."""
TALL_ROWS = 60
"""Rows from which a table scrolls by itself, under its head: what follows it stays within reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A section of the page: its anchor, its heading, and what stands under it."""

    key: str
    title: str
    inner: Markup
    css: str = ""


class Link(NamedTuple):
    """A link as a template writes it; the words alone where `href` is empty."""

    words: str
    href: str


class TableCell(NamedTuple):
    """A cell as a template writes it, in the order in which it unpacks it.

    `samples` counts those of a bound, `place` is an engine's colour.
    """

    is_head: bool
    is_number: bool
    is_long: bool
    text: str
    samples: str
    sort: str
    href: str
    place: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A sortable table as a template writes it, once: each row, its class and its cells, is made when it is written."""

    caption: str
    heads: Sequence[Head]
    rows: Iterator[tuple[str, Iterator[TableCell]]]
    is_tall: bool


def anchor(trial_id: str) -> str:
    """The id of a trial's section."""
    return "trial-" + re.sub(r"[^A-Za-z0-9_-]", "-", trial_id)


def address(path: Path, base: Path) -> str:
    """The path of a file relative to the page's folder `base`, which is resolved, as a link has it."""
    return quote(os.path.relpath(path.resolve(), base))


def link(path: Path, base: Path, words: str) -> Link:
    """A link to a file relative to the page's folder `base`; the words alone when the file is not there."""
    return Link(words, address(path, base) if path.exists() else "")


class Linker:
    """Makes tables for the page, numbers linked to their raw data.

    `hrefs` states where each cell's `trial_id` leads, `places` which colour stands for a word.
    """

    def __init__(self, hrefs: Mapping[str, str], places: Mapping[str, int]) -> None:
        self.hrefs = hrefs
        self.places = places

    def table(
        self, heads: Sequence[Head], rows: Sequence[Sequence[Cell]], caption: str, css: Sequence[str] = ()
    ) -> Table:
        """The table; `css` holds one class per row."""
        classes = css or [""] * len(rows)
        shown = ((kind, self._cells(row, heads)) for kind, row in zip(classes, rows, strict=True))
        return Table(caption=caption, heads=heads, rows=shown, is_tall=len(rows) > TALL_ROWS)

    def section(self, section: Section, before: Markup | str = "", after: Markup | str = "") -> Part:
        """A section with its paragraphs, table and notes, and other markup before and after the table."""
        shown = self.table(section.heads, section.rows, section.title) if section.rows else None
        inner = render("section.html", section=section, before=before, shown=shown, after=after)
        return Part(key=section.key, title=section.title, inner=inner)

    def _cells(self, row: Sequence[Cell], heads: Sequence[Head]) -> Iterator[TableCell]:
        is_head = True
        for cell, head in zip(row, heads, strict=True):
            text, _, samples = cell.text.partition(" (n=")
            if samples:  # on a line below: '>= 116 (n=651)' would widen the whole column
                text, samples = text.replace(">=", "≥"), samples.rstrip(")")
            sort = f"{cell.sort:.9g}" if cell.sort is not None else ""
            href, place = self.hrefs.get(cell.trial_id, ""), self.places.get(cell.text)
            yield TableCell(is_head, head.is_number, len(cell.text) > LONG_CELL, text, samples, sort, href, place)
            is_head = False
