"""The HTML page of one run: a single file that needs no network, readable without JavaScript."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from harness.choose.repetitions import Pooled
from harness.measure.metrics import adds_detail, metric_of, metrics_in
from harness.properties.render import why_nothing_to_write
from harness.records import Trial
from harness.report.content import run_summary as summary
from harness.report.content.numbers import interval_cell, metric_text, number
from harness.report.content.result_table import ReportTable, model_name
from harness.report.content.run_summary import Story, story_of
from harness.report.content.sections import Cell, Head
from harness.report.figures.all import Drawn, figures
from harness.report.figures.style import engine_places
from harness.report.page.elements import Linker, address, anchor, link, part, text
from harness.report.page.trial_sections import SECTIONS, failures, trial_sections
from harness.store.disk import write_text
from harness.store.reader import Run
from harness.wording import label

CAPTIONS = {
    "front": (
        "Trade-off",
        "One point per candidate, bars 95 % intervals. Dotted: what nothing beats in both. "
        "Hollow: broke a constraint. Shapes: dtype.",
    ),
    "cdf": (
        "Latency distribution",
        "From the raw requests, repetitions joined; exact quantiles at 240 levels. ★ recommended.",
    ),
    "percentiles": (
        "Tail latency",
        "The same requests by percentile; bands: 95 % intervals, where there are samples enough.",
    ),
    "engines": (
        "Median to tail of each engine's best",
        "● P50, ◆ P90, ■ P99 of the candidates in the table. Hollow: seen, but the samples prove only a lower bound.",
    ),
    "timeline": (
        "One trial over time",
        "Shaded: warm-up, never measured. Latency and lag stand where the request was due.",
    ),
    "overlay": ("One candidate in every run", "Exact quantiles of the raw requests, repetitions joined."),
    "progress": ("Search progress", "First objective of each trial; the line is the best feasible so far."),
    "importance": ("Importance of each axis", "Grey bars are within what chance alone gives (95 %)."),
    "parallel": (
        "Parallel coordinates",
        "One line per candidate, from its axes to the objective. Thick: recommended; pale: not feasible.",
    ),
    "phases": ("Where the time went", "Seconds per trial from launch to stop."),
}
FILE = "file of "
_ROW_CLASS = {"best": "best", "tie": "tie", "broke constraint": "broke", "": ""}


def write_html(run: Run, table: ReportTable, path: Path) -> None:
    """Write the page, whole or not at all. Raises EnvironmentFault when the disk refuses."""
    write_text(path, page(run, table, path.parent))


def page(run: Run, table: ReportTable, base: Path | None = None) -> str:
    """The page's text, for a file in the folder `base` (default: the run's): links to raw files are relative to it."""
    story = story_of(run)
    drawn = figures(story)
    folder = base if base is not None else run.root
    kept = _kept(story, table)
    linked = frozenset(trial.trial_id for trial in kept)
    hrefs = {one: f"#{anchor(one)}" for one in linked} | _files(run, table, folder, linked)
    linker = Linker(hrefs, engine_places(trial.candidate.engine for trial in run.trials))
    search = [drawn_part("progress", drawn), drawn_part("parallel", drawn), drawn_part("phases", drawn)]
    body = [
        _answer(story, folder, linked),
        part("results", "Results", _results(table, linker)),
        part("tradeoff", "Latency against everything else", drawn_part("front", drawn)),
        part("latency", "Latency", _stack(drawn_part("cdf", drawn), drawn_part("percentiles", drawn))),
        linker.section(summary.engines(story), before=drawn_part("engines", drawn)),
        part("time", "Over time", drawn_part("timeline", drawn)),
        linker.section(summary.rates(story)),
        linker.section(summary.importance(story), before=drawn_part("importance", drawn)),
        part("search", "The search", "".join(search)),
        linker.section(summary.losses(story)),
        failures(run, run.trials, folder, linked),
        doubts(table.notes),
        trial_sections(run, kept, folder),
        linker.section(summary.facts(story)),
    ]
    description = str(run.manifest.scenario.get("description") or "")
    under = f"{model_name(run)} · {len(run.trials)} trials · {run.manifest.created_utc} · {run.root.name}"
    return document(story.name, description, under, body, drawn)


def _kept(story: Story, table: ReportTable) -> list[Trial]:
    """Trials with a section: table order, then failures, then the verification; at most SECTIONS."""
    shown = [row.trial for row in table.rows]
    failed = [trial for trial in story.run.trials if trial.outcome != "ok"]
    room = SECTIONS - min(len(failed), SECTIONS // 4)
    verify = story.verification.trial if story.verification is not None else None
    kept = [*shown[:room], *failed[: SECTIONS - len(shown[:room])]]
    return [*([verify] if verify is not None else []), *sorted(kept, key=lambda trial: trial.number)]


def document(title: str, description: str, under: str, body: Sequence[str], drawn: Mapping[str, Drawn]) -> str:
    """The whole page around its sections: head, policy, theme switch, contents, scripts."""
    data = {name: one.data for name, one in drawn.items() if one.data is not None}
    start, script = _asset("theme.js"), _asset("page.js")
    scripts = [start, _plotly(), script] if data else [start, script]
    policy = (
        f"default-src 'none'; script-src {' '.join(_hash(one) for one in scripts)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    lead = f"<p>{text(description)}</p>" if description else ""
    embedded = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<title>{text(title)}: dynamometer</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<style>{_asset("page.css")}</style><script>{start}</script></head>\n<body>\n'
        f'<a class="skip" href="#answer">Skip to the answer</a><header><div><h1>{text(title)}</h1>{lead}'
        f'<p class="soft">{text(under)}</p></div><button type="button" id="theme" hidden>Dark</button></header>\n'
        f'{_contents(body)}<main>\n' + "\n".join(body) + "\n</main>\n"
        f'<script type="application/json" id="figures">{embedded}</script>\n'
        + "".join(f"<script>{one}</script>\n" for one in scripts[1:]) + "</body></html>\n"
    )  # fmt: skip


def _contents(body: Sequence[str]) -> str:
    """Links to the sections, from their own headings."""
    links = []
    for one in body:
        if one.startswith('<section id="') and "<h2>" in one:
            key = one.split('"', 2)[1]
            title = one.split("<h2>", 1)[1].split("</h2>", 1)[0]
            links.append(f'<a href="#{key}">{title}</a>')
    return f'<nav aria-label="Contents">{"".join(links)}</nav>'


def _plotly() -> str:
    """The script of the installed plotly package, whole, so that the page needs no network."""
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    return script.replace("</script", "<\\/script")


def _asset(name: str) -> str:
    return files("harness.report").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """The script's source for the content security policy: no other script may run in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _answer(story: Story, base: Path, linked: frozenset[str]) -> str:
    section = summary.answer(story)
    if story.recommendation is None or story.choice is None:
        why = "".join(f"<p>{text(line)}</p>" for line in section.paragraphs)
        return f'<section id="answer" class="card none"><h2>{text(section.title)}</h2>{why}</section>'
    trial = story.recommendation.trial
    properties = story.run.layout.recommendation_dir / "serving.properties"
    state = "unverified" if story.verification is None else "good" if story.verification.is_inside else "bad"
    mark = {"unverified": "not verified", "good": "verified", "bad": "failed"}[state]
    nothing = why_nothing_to_write(trial.candidate)
    deploy = (
        f"<div><dt>To deploy</dt><dd>{link(properties, base, 'serving.properties')} · "
        f"<code>dyno recommend {text(story.run.root)}</code></dd></div>"
    )
    return (
        f'<section id="answer" class="card"><h2>{text(section.title)}</h2>'
        f'<p class="what">{text(label(trial.candidate))}</p>'
        f'<div class="numbers">{_headline(story.choice.chosen, trial, linked)}</div>'
        f'<dl class="why"><div><dt>Why</dt><dd>{text(story.recommendation.margin)}</dd></div>'
        f'<div><dt>Verification</dt><dd><span class="tag {state}">{mark}</span> '
        f"{text(summary.verified(story))}</dd></div>"
        f"{'' if nothing else deploy}</dl></section>"
    )


def _headline(chosen: Pooled, trial: Trial, linked: frozenset[str]) -> str:
    made = []
    for row in metrics_in("answer"):
        metric = chosen.metric(row.name)
        if metric is not None and adds_detail(trial, row):
            value, _, counted = metric_text(metric).replace(">=", "≥").partition(" (")
            has_interval = metric.low is not None and metric.high is not None and metric.unit != "frac"
            more = counted.rstrip(")") if counted else interval_cell(metric) if has_interval else ""
            unit = "" if row.unit == "frac" else row.unit
            made.append(_figure_of(value, unit, row.short, more, trial.trial_id if trial.trial_id in linked else ""))
    if trial.quality is not None:
        match = metric_of(trial, "exact_match_frac")
        detail = f"exact match {number(100 * match.value)} %" if match is not None else ""
        made.append(_figure_of(trial.quality.verdict, "", "data quality", detail, ""))
    return "".join(made)


def _figure_of(value: str, unit: str, name: str, more: str, trial_id: str) -> str:
    shown = f"{text(value)}{f' <small>{text(unit)}</small>' if unit else ''}"
    shown = f'<a class="raw" href="#{anchor(trial_id)}">{shown}</a>' if trial_id else shown
    return f"<div><span>{text(name)}</span><b>{shown}</b><span>{text(more)}</span></div>"


def _results(table: ReportTable, linker: Linker) -> str:
    if not table.rows:
        return "<p>No trial gave numbers; the failures below say why.</p>"
    constant = _constant_columns(table)
    kept = [index for index in range(len(table.columns)) if index not in constant]
    heads = [Head(title=table.columns[index].title, is_number=table.columns[index].is_number) for index in kept]
    rows = []
    for row in table.rows:
        cells = []
        for index in kept:
            column = table.columns[index]
            metric = metric_of(row.trial, column.metric) if column.metric else None
            sort = metric.value if metric is not None else _as_number(row.cells[index]) if column.is_number else None
            raw = (
                row.trial.trial_id if column.is_number else _named(row.trial, linker) if column.title == "Trial" else ""
            )
            cells.append(Cell(text=row.cells[index], sort=sort, trial_id=raw))
        rows.append(cells)
    same = ", ".join(f"{table.columns[i].title} {table.rows[0].cells[i]}" for i in sorted(constant))
    note = (
        "Latency runs from the intended send to the last byte. Repetitions are rows of their own. "
        "Click a head to sort, a number for its raw data."
    )
    if any(row.trial.trial_id not in linker.hrefs for row in table.rows):
        note += " Where a number leads nowhere, the trial's name leads to its raw records."
    search = (
        '<p class="filter" hidden><label>Filter <input type="search" placeholder="t5 int8"></label> '
        '<span aria-live="polite"></span></p>'
    )
    return (
        (search if len(rows) > 8 else "")
        + linker.table(heads, rows, "Results", [_ROW_CLASS[row.mark] for row in table.rows])
        + (f'<p class="note">The same everywhere: {text(same)}.</p>' if same else "")
        + f'<p class="note">{note}</p>'
    )


def _files(run: Run, table: ReportTable, base: Path, linked: frozenset[str]) -> dict[str, str]:
    """Where the names of trials without a section lead: to their own raw records, or the line-by-line file."""
    found = {}
    for trial in (row.trial for row in table.rows if row.trial.trial_id not in linked):
        requests = run.layout.requests(trial.trial_id)
        found[f"{FILE}{trial.trial_id}"] = address(requests if requests.exists() else run.layout.trials_jsonl, base)
    return found


def _named(trial: Trial, linker: Linker) -> str:
    """What the name of a trial leads to: its section, or its file where it has none. Its numbers would be 5 MB more."""
    return trial.trial_id if trial.trial_id in linker.hrefs else f"{FILE}{trial.trial_id}"


def _constant_columns(table: ReportTable) -> set[int]:
    """Columns with the same value in every row of a long table: one sentence is better."""
    if len(table.rows) < 2:
        return set()
    settings = [
        i for i, column in enumerate(table.columns) if i and not column.metric and column.title not in ("n", "Trial")
    ]
    return {i for i in settings if len({row.cells[i] for row in table.rows}) == 1}


def _as_number(cell: str) -> float | None:
    try:
        return float(cell.partition(" ")[0])
    except ValueError:
        return None


def doubts(notes: Sequence[str]) -> str:
    """The reasons to read the numbers with care."""
    items = "".join(f"<li>{text(note)}</li>" for note in notes)
    return part("doubts", "Reasons to read with care", f"<ul>{items}</ul>" if items else "<p>None was found.</p>")


def drawn_part(name: str, drawn: Mapping[str, Drawn]) -> str:
    """A place for a figure under its caption, or the sentence that explains why there is none."""
    one, (title, caption) = drawn[name], CAPTIONS[name]
    if one.data is None:
        return f'<p class="empty">{text(one.missing)}</p>' if one.missing else ""
    return (
        f'<figure id="figure-{name}"><figcaption>{text(title)}<small>{text(caption)}</small></figcaption>'
        + (f'<p class="note capped">{text(one.capped)}</p>' if one.capped else "")
        + '<div class="choose"></div>'
        f'<div class="plot" id="plot-{name}" role="img" aria-label="{text(title)}: {text(caption)}"></div>'
        "<noscript><p>The figure needs JavaScript; its numbers are in the tables.</p></noscript></figure>"
    )


def _stack(*parts: str) -> str:
    """Figures below each other; one sentence where the same is missing from all."""
    return "".join(dict.fromkeys(parts))
