"""The sections of a report as terminal text and as markdown, in the same order as on the page."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.report.content import run_summary as summary
from harness.report.content.comparison import LETTERS, Comparison, sections
from harness.report.content.levels import levels
from harness.report.content.machines import machines
from harness.report.content.reported import reported
from harness.report.content.result_table import ReportTable
from harness.report.content.run_summary import Story
from harness.report.content.sections import Cell, Section
from harness.report.text.table_formats import as_markdown, markdown_row, print_table

PROSE_WIDTH = 14
GAP = 2
ROWS_SHOWN = 12
"""Rows of a section on a terminal; the page and the CSV have all."""


def print_report(story: Story, table: ReportTable, console: Console) -> None:
    """The answer, the result table with failures and doubts, then engines, importance, losers and the machine."""
    print_section(summary.answer(story), console)
    console.print()
    print_table(table, console)
    for section in _after_the_table(story):
        console.print()
        print_section(section, console)


def report_markdown(story: Story, table: ReportTable) -> str:
    """The same as markdown for a pull request or a wiki."""
    parts = [f"## {story.name}", section_markdown(summary.answer(story)), as_markdown(table)]
    parts += [section_markdown(section) for section in _after_the_table(story)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _after_the_table(story: Story) -> list[Section]:
    parts = [
        reported(story),
        summary.engines(story),
        levels(story),
        summary.importance(story),
        summary.losses(story),
        machines(story),
        summary.facts(story),
    ]
    return [part for part in parts if part is not None]


def print_section(section: Section, console: Console) -> None:
    """Heading, sentences, table, notes."""
    console.print(Text(section.title, style="bold"))
    for place, line in enumerate(section.paragraphs):
        console.print(Text(line, style="bold green" if section.key == "answer" and not place else ""), soft_wrap=True)
    if section.rows:
        _print_rows(section, console)
    for note in section.notes:
        console.print(Text(note, style="dim"), soft_wrap=True)


def _print_rows(section: Section, console: Console) -> None:
    shown = Table(box=None, pad_edge=False, show_header=section.key != "machine", header_style="dim")
    rows: Sequence[Sequence[Cell]] = section.rows if section.key == "machine" else section.rows[:ROWS_SHOWN]
    kept = _fitting(section, rows, console.width)
    natural = [max(len(text) for text in _texts(section, rows, place)) + GAP for place in kept]
    is_narrow = sum(natural) - GAP > console.width
    for place in kept:
        head = section.heads[place]
        shown.add_column(head.title, justify="right" if head.is_number else "left", overflow="fold")
        least = min(_least_width(section, rows, place), console.width // 2)
        shown.columns[-1].min_width = least
        if is_narrow and head.is_number:  # rich would widen these and cut the last column off
            shown.columns[-1].width = least
    for row in rows:
        shown.add_row(*(Text(row[place].text) for place in kept))
    console.print(shown)
    if len(kept) < len(section.heads):
        names = ", ".join(head.title for head in section.heads[len(kept) :])
        console.print(Text(f"Left out for want of width: {names}", style="dim"), soft_wrap=True)
    if len(rows) < len(section.rows):
        left = len(section.rows) - len(rows)
        console.print(Text(f"and {left} more (--format html or markdown has them)", style="dim"), soft_wrap=True)


def _fitting(section: Section, rows: Sequence[Sequence[Cell]], width: int) -> range:
    """The first columns that fit without a broken word; two at least."""
    used = 0
    for place in range(len(section.heads)):
        used += _least_width(section, rows, place) + GAP
        if used - GAP > width and place >= 2:
            return range(place)
    return range(len(section.heads))


def _least_width(section: Section, rows: Sequence[Sequence[Cell]], place: int) -> int:
    """The longest word; of prose enough that it does not stand one word to a line."""
    texts = _texts(section, rows, place)
    longest_word = max((len(word) for text in texts for word in text.split()), default=0)
    if section.heads[place].is_number:
        return longest_word
    return max(longest_word, min(PROSE_WIDTH, max(len(text) for text in texts)))


def _texts(section: Section, rows: Sequence[Sequence[Cell]], place: int) -> list[str]:
    return [section.heads[place].title, *(row[place].text for row in rows)]


def section_markdown(section: Section) -> str:
    """The section under its own heading."""
    lines = [f"### {section.title}", ""]
    for place, line in enumerate(section.paragraphs):
        lines += [f"**{line}**" if section.key == "answer" and not place else line, ""]
    if section.rows:
        lines.append(markdown_row([head.title for head in section.heads]))
        lines.append(markdown_row(["---:" if head.is_number else "---" for head in section.heads]))
        lines += [markdown_row([cell.text for cell in row]) for row in section.rows]
        lines.append("")
    lines += [f"- {note}" for note in section.notes]
    return "\n".join(lines)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Runs side by side: what each recommends, each metric by candidate, what differs about the runs."""
    for place, section in enumerate(sections(comparison)):
        if place:
            console.print()
        print_section(section, console)


def comparison_markdown(comparison: Comparison) -> str:
    """The same as markdown."""
    names = [f"- {comparison.name(index)}" for index in range(len(comparison.stories))]
    parts = ["## Runs side by side\n\n" + "\n".join(names), *(section_markdown(one) for one in sections(comparison))]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def comparison_json(comparison: Comparison) -> str:
    """Runs, and per section every row as text."""
    answer = {
        "runs": [{"letter": LETTERS[i], "run": str(s.run.root)} for i, s in enumerate(comparison.stories)],
        "sections": [
            {
                "title": one.title,
                "columns": [head.title for head in one.heads],
                "rows": [[cell.text for cell in row] for row in one.rows],
                "notes": [*one.paragraphs, *one.notes],
            }
            for one in sections(comparison)
        ],
    }
    return json.dumps(answer, indent=2, ensure_ascii=False) + "\n"
