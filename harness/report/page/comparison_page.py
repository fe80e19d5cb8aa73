"""The HTML page that compares several runs: sections, and latency distributions over each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.records import Candidate
from harness.report.content.comparison import LETTERS, Comparison, raw_key, sections
from harness.report.figures.all import Drawn
from harness.report.figures.latency import latency_axis
from harness.report.figures.style import Figure, layout, plain, rounded
from harness.report.page.elements import Linker, Part, address, anchor, link
from harness.report.page.run_page import document, drawn_part
from harness.report.page.templates import render
from harness.report.series.latency_curves import Samples, lost_sentence, samples_of
from harness.report.wording.titles import part_shown
from harness.store.disk import write_text

OVERLAID = 30
"""Candidates whose distributions are put over each other, those that several runs share first."""


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the page, whole or not at all. Raises EnvironmentFault when the disk refuses."""
    write_text(path, comparison_page(comparison, path.parent))


def comparison_page(comparison: Comparison, base: Path) -> str:
    """The page's text, for a file in the folder `base`."""
    base = base.resolve()
    linker = Linker(_hrefs(comparison, base), {})
    drawn = {"overlay": _overlay(comparison)}
    first, *rest = sections(comparison)
    body = [
        linker.section(first, after=_sources(comparison, base)),
        Part(key="latency", title="Latency distributions", inner=drawn_part("overlay", drawn)),
        *(linker.section(section) for section in rest),
    ]
    names = " · ".join(comparison.name(index) for index in range(len(comparison.stories)))
    return document("Runs side by side", "", names, body, drawn)


def _hrefs(comparison: Comparison, base: Path) -> dict[str, str]:
    """Where the numbers of each run lead: the trial on its own page, or its trials.jsonl while it has no page."""
    found = {}
    for index, story in enumerate(comparison.stories):
        layout = story.run.layout
        has_page = layout.report_html.exists()
        source = address(layout.report_html if has_page else layout.trials_jsonl, base)
        for trial in story.run.trials:
            found[raw_key(index, trial)] = f"{source}#{anchor(trial.trial_id)}" if has_page else source
    return found


def _sources(comparison: Comparison, base: Path) -> Markup:
    sources = []
    for index, story in enumerate(comparison.stories):
        files = (story.run.layout.trials_jsonl, story.run.layout.run_json, story.run.layout.report_html)
        sources.append((LETTERS[index], story.run.root, [link(path, base, path.name) for path in files]))
    return render("sources.html", sources=sources)


def _overlay(comparison: Comparison) -> Drawn:
    choices: list[tuple[str, Figure]] = []
    lost: list[str] = []
    for candidate in comparison.candidates[:OVERLAID]:
        found, gone = _samples(comparison, candidate)
        lost += gone
        if found:
            shared = (
                "" if len(found) == len(comparison.stories) else f" (only {', '.join(LETTERS[i] for i, _ in found)})"
            )
            choices.append((f"{found[0][1].name}{shared}", _figure(comparison, found)))
    if not choices:
        return Drawn(missing="No raw request records are left in these runs, so there is no distribution to draw.")
    total = len(comparison.candidates)
    which = "in the order of the table, to keep the page small"
    capped = part_shown(min(OVERLAID, total), total, "candidates", which)
    return Drawn(choices=tuple(choices), capped=" ".join(filter(None, (capped, lost_sentence(lost)))))


def _samples(comparison: Comparison, candidate: Candidate) -> tuple[list[tuple[int, Samples]], list[str]]:
    found: list[tuple[int, Samples]] = []
    lost: list[str] = []
    for index, story in enumerate(comparison.stories):
        one = comparison.pooled(index, candidate)
        if one is None:
            continue
        made, gone = samples_of(story.run, [t for t in one.trials if t.outcome == "ok"])
        lost += [f"{LETTERS[index]} {trial_id}" for trial_id in gone]
        if made is not None:
            found.append((index, made))
    return found, lost


def _figure(comparison: Comparison, found: Sequence[tuple[int, Samples]]) -> Figure:
    data: list[dict[str, Any]] = []
    for index, samples in found:
        levels, latency = samples.grid()
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": plain(f"{comparison.name(index)}, n={len(samples.latency_ns)}"),
                "x": rounded(latency),
                "y": rounded(levels),
                "line": {"color": f"@e{index % 8}", "width": 2.4, "dash": ("solid", "dash", "dot")[index % 3]},
                "hovertemplate": "%{y:.1%} within %{x:.4g} ms<extra>%{fullData.name}</extra>",
            }
        )
    made = layout("Latency (ms)", "Share of requests answered", 440)
    made["yaxis"] |= {"tickformat": ".0%", "range": [0, 1.01]}
    made["xaxis"] |= latency_axis([line["x"] for line in data])
    return {"data": data, "layout": made}
