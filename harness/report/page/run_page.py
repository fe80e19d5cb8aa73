"""The HTML page of one run: a single file that needs no network, readable without JavaScript."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from harness.choose.repetitions import Pooled
from harness.measure.metrics import adds_detail, metric_of, metrics_in
from harness.properties.render import why_nothing_to_write
from harness.records import Trial
from harness.report.content import run_summary as summary
from harness.report.content.levels import levels
from harness.report.content.machines import machines
from harness.report.content.reported import reported
from harness.report.content.result_table import ReportTable, model_name
from harness.report.content.run_summary import Story, story_of
from harness.report.content.sections import Cell, Head, Section
from harness.report.figures.all import Drawn, figures
from harness.report.figures.style import engine_places
from harness.report.page.elements import Linker, Part, Table, address, anchor, link
from harness.report.page.templates import render, verbatim
from harness.report.page.trial_sections import SECTIONS, failures, trial_sections
from harness.report.wording.numbers import interval_cell, metric_text, number
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
    "levels": (
        "Latency against throughput, by load",
        "One line per candidate, one mark per level of the sweep, with 95 % intervals; further right and lower is "
        "better. Where a line turns upwards the engine is full: requests only wait longer.",
    ),
    "phases": ("Where the time went", "Seconds per trial from launch to stop."),
}
FILE = "file of "
_ROW_CLASS = {
    "best": "best",
    "tie": "tie",
    "broke constraint": "broke",
    "ended early": "broke",
    "probed": "broke",
    "not ranked": "broke",
    "": "",
}


def write_html(run: Run, table: ReportTable, path: Path) -> None:
    """Write the page, whole or not at all. Raises EnvironmentFault when the disk refuses."""
    write_text(path, page(run, table, path.parent))


def page(run: Run, table: ReportTable, base: Path | None = None) -> str:
    """The page's text, for a file in the folder `base` (default: the run's): links to raw files are relative to it."""
    story = story_of(run)
    drawn = figures(story)
    folder = (base if base is not None else run.root).resolve()
    kept = _kept(story, table)
    linked = frozenset(trial.trial_id for trial in kept)
    hrefs = {one: f"#{anchor(one)}" for one in linked} | _files(run, table, folder, linked)
    linker = Linker(hrefs, engine_places(trial.candidate.engine for trial in run.trials))
    body = [
        _answer(story, folder, linked),
        _results(table, linker),
        _section(reported(story), linker),
        _figures("tradeoff", "Latency against everything else", ("front",), drawn),
        _figures("latency", "Latency", ("cdf", "percentiles"), drawn),
        _section(summary.engines(story), linker, drawn_part("engines", drawn)),
        _figures("time", "Over time", ("timeline",), drawn),
        _section(levels(story), linker, drawn_part("levels", drawn)),
        _section(summary.importance(story), linker, drawn_part("importance", drawn)),
        _figures("search", "The search", ("progress", "parallel", "phases"), drawn),
        _section(summary.losses(story), linker),
        failures(run, run.trials, folder, linked),
        Part(key="doubts", title="Reasons to read with care", inner=render("doubts.html", notes=table.notes)),
        trial_sections(run, kept, folder),
        _section(machines(story), linker),
        _section(summary.facts(story), linker),
    ]
    description = str(run.manifest.scenario.get("description") or "")
    under = f"{model_name(run)} · {len(run.trials)} trials · {run.manifest.created_utc} · {run.root.name}"
    return document(story.name, description, under, [part for part in body if part is not None], drawn)


def _kept(story: Story, table: ReportTable) -> list[Trial]:
    """Trials with a section: table order, then failures, then the verification; at most SECTIONS."""
    shown = [row.trial for row in table.rows]
    failed = [trial for trial in story.run.trials if not trial.has_numbers]
    room = SECTIONS - min(len(failed), SECTIONS // 4)
    verify = story.verification.trial if story.verification is not None else None
    kept = [*shown[:room], *failed[: SECTIONS - len(shown[:room])]]
    return [*([verify] if verify is not None else []), *sorted(kept, key=lambda trial: trial.number)]


def document(title: str, description: str, under: str, parts: Sequence[Part], drawn: Mapping[str, Drawn]) -> str:
    """The whole page around its sections: head, policy, theme switch, contents, scripts."""
    data = {name: one.data for name, one in drawn.items() if one.data is not None}
    start, script = _asset("theme.js"), _asset("page.js")
    scripts = [start, _plotly(), script] if data else [start, script]
    return render(
        "page.html",
        title=title,
        description=description,
        under=under,
        parts=parts,
        css=verbatim(_asset("page.css")),
        figures=data,
        scripts=[verbatim(one) for one in scripts],
        hashes=[_hash(one) for one in scripts],
    )


def _plotly() -> str:
    """The script of the installed plotly package, whole, so that the page needs no network."""
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    return script.replace("</script", "<\\/script")


def _asset(name: str) -> str:
    return files("harness.report").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """The script's SHA-256 for the content security policy: no other script may run in the page."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _section(section: Section | None, linker: Linker, before: Markup | str = "") -> Part | None:
    return linker.section(section, before) if section is not None else None


def _figures(key: str, title: str, names: Sequence[str], drawn: Mapping[str, Drawn]) -> Part:
    """Figures below each other; one sentence where the same is missing from all."""
    return Part(key=key, title=title, inner=Markup("").join(dict.fromkeys(drawn_part(name, drawn) for name in names)))


def _answer(story: Story, base: Path, linked: frozenset[str]) -> Part:
    section = summary.answer(story)
    if story.recommendation is None or story.choice is None:
        why = render("section.html", section=section, before="", shown=None, after="")
        return Part(key="answer", title=section.title, inner=why, css="card none")
    trial = story.recommendation.trial
    properties = story.run.layout.recommendation_dir / "serving.properties"
    state = "unverified" if story.verification is None else "good" if story.verification.is_inside else "bad"
    inner = render(
        "answer.html",
        what=label(trial.candidate),
        figures=_headline(story.choice.chosen, trial, linked),
        gain=story.recommendation.gain,
        margin=story.recommendation.margin,
        contained=story.contained,
        state=state,
        mark={"unverified": "not verified", "good": "verified", "bad": "failed"}[state],
        verified=summary.verified(story),
        properties=link(properties, base, "serving.properties") if _is_written(story, trial) else None,
        root=story.run.root,
    )
    return Part(key="answer", title=section.title, inner=inner, css="card")


def _is_written(story: Story, trial: Trial) -> bool:
    """Whether the run's own container has a file that serves something of what was measured."""
    if story.contained is not None:
        return story.contained.best is not None
    return not why_nothing_to_write(trial.candidate)


def _headline(chosen: Pooled, trial: Trial, linked: frozenset[str]) -> list[dict[str, str]]:
    href = f"#{anchor(trial.trial_id)}" if trial.trial_id in linked else ""
    made = []
    for row in metrics_in("answer"):
        metric = chosen.metric(row.name)
        if metric is not None and adds_detail(trial, row):
            value, _, counted = metric_text(metric).replace(">=", "≥").partition(" (")
            has_interval = metric.low is not None and metric.high is not None and metric.unit != "frac"
            more = counted.rstrip(")") if counted else interval_cell(metric) if has_interval else ""
            unit = "" if row.unit == "frac" else row.unit
            made.append({"name": row.short, "value": value, "unit": unit, "more": more, "href": href})
    if trial.quality is not None:
        match = metric_of(trial, "exact_match_frac")
        more = f"exact match {number(100 * match.value)} %" if match is not None else ""
        verdict = trial.quality.verdict
        made.append({"name": "data quality", "value": verdict, "unit": "", "more": more, "href": ""})
    return made


def _results(table: ReportTable, linker: Linker) -> Part:
    constant = _constant_columns(table)
    inner = render(
        "results.html",
        shown=_result_table(table, linker, constant) if table.rows else None,
        has_filter=len(table.rows) > 8,
        same=", ".join(f"{table.columns[i].title} {table.rows[0].cells[i]}" for i in sorted(constant)),
        leads_nowhere=any(row.trial.trial_id not in linker.hrefs for row in table.rows),
    )
    return Part(key="results", title="Results", inner=inner)


def _result_table(table: ReportTable, linker: Linker, constant: set[int]) -> Table:
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
    return linker.table(heads, rows, "Results", [_ROW_CLASS[row.mark] for row in table.rows])


def _files(run: Run, table: ReportTable, base: Path, linked: frozenset[str]) -> dict[str, str]:
    """Where the names of trials without a section lead: to their own raw records, or the line-by-line file."""
    found = {}
    line_by_line = address(run.layout.trials_jsonl, base)
    for trial in (row.trial for row in table.rows if row.trial.trial_id not in linked):
        requests = run.layout.requests(trial.trial_id)
        found[f"{FILE}{trial.trial_id}"] = address(requests, base) if requests.exists() else line_by_line
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


def drawn_part(name: str, drawn: Mapping[str, Drawn]) -> Markup:
    """A place for a figure under its caption, or the sentence that explains why there is none."""
    one, (title, caption) = drawn[name], CAPTIONS[name]
    return render(
        "figure.html",
        is_drawn=one.data is not None,
        missing=one.missing,
        name=name,
        title=title,
        caption=caption,
        capped=one.capped,
    )
