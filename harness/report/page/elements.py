"""HTML elements of a report page: tables, sections, links, with all text from a run escaped."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from harness.report.content.sections import Cell, Head, Section

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and the ones that turn the direction of text: neither may rearrange what a reader sees."""


LONG_CELL = 18
"""Characters from which a cell may break over lines."""
TALL_ROWS = 60
"""Rows from which a table scrolls by itself, under its head: what follows it stays within reach."""


def text(value: object) -> str:
    """Escaped for markup and attributes, without terminal colours and control characters."""
    return escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", _ANSI.sub("", str(value).replace("\r\n", "\n"))))


def anchor(trial_id: str) -> str:
    """The id of a trial's section."""
    return "trial-" + re.sub(r"[^A-Za-z0-9_-]", "-", trial_id)


def address(path: Path, base: Path) -> str:
    """The path of a file relative to the page's folder `base`, as a link has it."""
    return quote(Path(os.path.relpath(path.resolve(), base.resolve())).as_posix())


def link(path: Path, base: Path, words: str) -> str:
    """A link to a file relative to the page's folder `base`; the words alone when the file is not there."""
    if not path.exists():
        return text(words)
    return f'<a href="{address(path, base)}">{text(words)}</a>'


class Linker:
    """Turns cells into markup, numbers linked to their raw data.

    `hrefs` states where each cell's `trial_id` leads, `places` which colour stands for a word.
    """

    def __init__(self, hrefs: Mapping[str, str], places: Mapping[str, int]) -> None:
        self.hrefs = hrefs
        self.places = places

    def cell(self, cell: Cell, *, is_number: bool, is_head: bool = False) -> str:
        """One cell; the first of a row is its head."""
        inner = _with_count(text(cell.text))
        if cell.trial_id in self.hrefs:
            inner = f'<a class="raw" href="{self.hrefs[cell.trial_id]}">{inner}</a>'
        elif cell.text in self.places:
            inner = f'<span class="engine"><i class="dot e{self.places[cell.text]}"></i>{inner}</span>'
        order = f' data-sort="{cell.sort:.9g}"' if cell.sort is not None else ""
        kind = ' class="num"' if is_number else ' class="wrap"' if len(cell.text) > LONG_CELL else ""
        return f'<th scope="row"{kind}{order}>{inner}</th>' if is_head else f"<td{kind}{order}>{inner}</td>"

    def table(
        self, heads: Sequence[Head], rows: Sequence[Sequence[Cell]], caption: str, css: Sequence[str] = ()
    ) -> str:
        """A sortable table; `css` holds one class per row. `caption` is read out, not shown."""
        head = "".join(
            f'<th scope="col"{_number(one)} aria-sort="none" data-title="{text(one.title)}">'
            f'<button type="button">{text(one.title)}</button></th>'
            for one in heads
        )
        body = []
        for place, row in enumerate(rows):
            cells = [
                self.cell(cell, is_number=one.is_number, is_head=index == 0)
                for index, (cell, one) in enumerate(zip(row, heads, strict=True))
            ]
            kind = f' class="{css[place]}"' if css and css[place] else ""
            body.append(f"<tr{kind}>{''.join(cells)}</tr>")
        kind = "scroll tall" if len(rows) > TALL_ROWS else "scroll"
        return (
            f'<div class="{kind}" tabindex="0" role="region" aria-label="{text(caption)}"><table class="sortable">'
            f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        )

    def section(self, section: Section | None, before: str = "", after: str = "") -> str:
        """A section with its paragraphs, table and notes; '' for none."""
        if section is None:
            return ""
        prose = "".join(f"<p>{text(line)}</p>" for line in section.paragraphs)
        table = self.table(section.heads, section.rows, section.title) if section.rows else ""
        notes = "".join(f'<p class="note">{text(note)}</p>' for note in section.notes)
        return part(section.key, section.title, prose + before + table + notes + after)


def part(key: str, title: str, inner: str) -> str:
    """A section of the page under its heading."""
    return f'<section id="{key}"><h2>{text(title)}</h2>{inner}</section>'


def definitions(rows: Iterable[tuple[str, str]]) -> str:
    """A list of facts; the second of each pair is markup already."""
    return "<dl>" + "".join(f"<div><dt>{text(key)}</dt><dd>{value}</dd></div>" for key, value in rows) + "</dl>"


def _number(head: Head) -> str:
    return ' class="num"' if head.is_number else ""


def _with_count(inner: str) -> str:
    """A bound's number of samples below it: '>= 116 (n=651)' would widen the whole column."""
    value, has_count, counted = inner.partition(" (n=")
    return f"{value.replace('&gt;=', '≥')}<small>n={counted.rstrip(')')}</small>" if has_count else inner
