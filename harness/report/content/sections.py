"""Sections, the building blocks of a report: terminal, markdown and page print the same ones."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records import Metric
from harness.report.wording.numbers import ABSENT, metric_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A column head, with its unit."""

    title: str
    is_number: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What stands in a table: `sort` orders it, `trial_id` names the trial that holds its raw data."""

    text: str
    sort: float | None = None
    trial_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of a report. Without rows it is its paragraphs alone; `key` is its anchor on the page."""

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    heads: tuple[Head, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    notes: tuple[str, ...] = ()


def metric_cell(metric: Metric | None, trial_id: str = "") -> Cell:
    """The number as `cells.metric_text` writes it, with what it is sorted by and where it comes from."""
    if metric is None:
        return Cell(text=ABSENT)
    return Cell(text=metric_text(metric), sort=metric.value, trial_id=trial_id)
