"""A run as one page: a single file that needs no network, readable without JavaScript (then without the figures)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from harness.measure.metrics import metric_of
from harness.recommend.label import label
from harness.records import Recommendation, Trial
from harness.report.cells import interval_cell, number, percent_cell, value_cell
from harness.report.plots import Figure, figures
from harness.report.tables import ReportTable, Row, model_name, recommendation_of, why_nothing
from harness.store.disk import write_text
from harness.store.reader import Run

CAPTIONS = {
    "tradeoff": ("Latency against throughput", "Down and to the right is better. Bars: 95 % intervals. Hollow: broke a "
                 "constraint. Shapes: dtype. Ring: recommended."),
    "cdf": ("Latency distribution", "From the raw requests, repetitions joined; thick: the recommended one."),
    "progress": ("Search progress", "Trials in the order they ran; the line is the best feasible so far."),
    "phases": ("Where the time went", "Seconds per trial from launch to stop."),
}  # fmt: skip
WIDE = ("cdf", "phases")
"""Figures with long names beside them take the whole width."""

_ROW_CLASS = {"best": "best", "tie": "tie", "broke constraint": "broke", "": ""}


def write_html(run: Run, table: ReportTable, path: Path) -> None:
    """Write the page, whole or not at all. Raises EnvironmentFault when the disk refuses."""
    write_text(path, page(run, table))


def page(run: Run, table: ReportTable) -> str:
    """The page's text. About 5 MB, nearly all of it plotly.js, which draws the figures offline."""
    recommendation = recommendation_of(run)
    drawn = figures(run, recommendation)
    name = str(run.manifest.scenario.get("name", run.root.name))
    body = [
        _head(run, name),
        _card(run, recommendation),
        _results(table),
        _plots(drawn),
        _losses(recommendation),
        _failures(table),
        _notes(table),
        _facts(run),
    ]
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}: dynamometer</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_asset('page.css')}</style></head>\n<body>\n" + "\n".join(body) + _scripts(drawn) + "</body></html>\n"
    )


def _asset(name: str) -> str:
    return files("harness.report").joinpath(name).read_text(encoding="utf-8")


def _head(run: Run, name: str) -> str:
    description = str(run.manifest.scenario.get("description") or "")
    told = f"<p>{escape(description)}</p>" if description else ""
    return (
        f"<header><h1>{escape(name)}</h1>{told}"
        f'<p class="soft">{escape(model_name(run))} · {len(run.trials)} trials · {escape(run.manifest.created_utc)} · '
        f'<span class="mono">{escape(run.root.name)}</span></p></header>'
    )


def _card(run: Run, recommendation: Recommendation | None) -> str:
    if recommendation is None:
        return f'<section class="card none"><h2>No recommendation</h2><p>{escape(why_nothing(run))}</p></section>'
    trial = recommendation.trial
    title = "Recommended (a tie, the cheapest of it)" if recommendation.is_tie else "Recommended"
    return (
        f'<section class="card"><h2>{title}</h2><p class="what">{escape(label(trial.candidate))}</p>'
        f'<div class="numbers">{_headline(trial)}</div><p>{escape(recommendation.margin)}</p>'
        f'<p class="mono">dyno recommend {escape(str(run.root))}</p></section>'
    )


def _headline(trial: Trial) -> str:
    shown = []
    for name, key, unit in (
        ("P50", "latency_p50_ms", "ms"),
        ("P90", "latency_p90_ms", "ms"),
        ("P99", "latency_p99_ms", "ms"),
        ("throughput", "throughput_rps", "requests/s"),
        ("peak memory", "peak_memory_mib", "MiB"),
    ):
        metric = metric_of(trial, key)
        if metric is not None:
            interval = interval_cell(metric)
            range_text = f" · {interval}" if metric.low is not None else ""
            value, _, counted = value_cell(metric).partition(" (")
            below = f"{name} · {counted.rstrip(')')}" if counted else name + range_text
            shown.append(f"<div><b>{escape(value)} {unit}</b><span>{escape(below)}</span></div>")
    shown.append(f"<div><b>{escape(percent_cell(metric_of(trial, 'error_frac')))}</b><span>errors</span></div>")
    if trial.quality is not None:
        match = metric_of(trial, "exact_match_frac")
        detail = f" · exact match {number(100 * match.value)} %" if match is not None else ""
        shown.append(f"<div><b>{trial.quality.verdict}</b><span>data quality{escape(detail)}</span></div>")
    return "".join(shown)


def _results(table: ReportTable) -> str:
    heads = [(column.title, column.is_number) for column in table.columns]
    rows = [_row(row, [is_number for _, is_number in heads]) for row in table.rows]
    return (
        "<section><h2>Results</h2>"
        + _table(heads, rows)
        + '<p class="note">Latencies run from intended send to last byte; repetitions are separate rows.</p></section>'
    )


def _row(row: Row, is_number: Sequence[bool]) -> str:
    kind = _ROW_CLASS[row.mark]
    first = f'<span class="tag {kind}">{row.mark}</span>' if row.mark else ""
    cells = [f'<td class="tight">{first}</td>']
    for cell, numeric in zip(row.cells[1:], is_number[1:], strict=True):
        cells.append(f'<td class="{"num" if numeric else "tight"}">{escape(cell)}</td>')
    return f'<tr class="{kind}">{"".join(cells)}</tr>'


def _plots(drawn: Mapping[str, Figure]) -> str:
    if not drawn:
        return ""
    shown = []
    for name in drawn:
        title, text = CAPTIONS[name]
        wide = ' class="wide"' if name in WIDE else ""
        shown.append(
            f"<figure{wide}><figcaption>{title}<small>{text}</small></figcaption>"
            f'<div class="plot" id="plot-{name}"></div></figure>'
        )
    missing = "<noscript><p>The figures need JavaScript; every number is in the tables.</p></noscript>"
    return f'<section><h2>Figures</h2>{missing}<div class="grid">{"".join(shown)}</div></section>'


def _losses(recommendation: Recommendation | None) -> str:
    if recommendation is None or not recommendation.losses:
        return ""
    rows = [
        f'<tr><td>{escape(label(loss.candidate))}</td><td>{escape(loss.why)}</td><td class="tight mono">'
        f"{escape(loss.trial_id)}</td></tr>"
        for loss in recommendation.losses
    ]
    heads = [("Candidate", False), ("Why", False), ("Trial", False)]
    return f"<section><h2>Why the others lost</h2>{_table(heads, rows)}</section>"


def _failures(table: ReportTable) -> str:
    if not table.failures:
        return ""
    rows = [
        f'<tr><td>{escape(failure.label)}</td><td class="tight"><span class="tag failed">{failure.outcome}</span></td>'
        f'<td>{escape(failure.reason)}</td><td class="tight mono">{escape(failure.trial_id)}</td></tr>'
        for failure in table.failures
    ]
    heads = [("Candidate", False), ("Outcome", False), ("Reason", False), ("Trial", False)]
    return f"<section><h2>Trials without numbers</h2>{_table(heads, rows)}</section>"


def _notes(table: ReportTable) -> str:
    if not table.notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return f"<section><h2>Reasons to read with care</h2><ul>{items}</ul></section>"


def _facts(run: Run) -> str:
    manifest = run.manifest
    facts = {
        "run": str(run.root),
        "command": " ".join(manifest.command),
        "scenario digest": manifest.digest,
        "dynamometer": f"{manifest.dyno_version} {manifest.git}".strip(),
        **{key.replace("_", " "): _plain(value) for key, value in manifest.machine.items()},
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items())),
    }
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items() if value)
    return f"<section><h2>Machine and software</h2><dl>{items}</dl></section>"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return "" if value is None else str(value)


def _table(heads: Iterable[tuple[str, bool]], rows: Sequence[str]) -> str:
    head = "".join(f'<th class="{"num" if numeric else ""}">{escape(title)}</th>' for title, numeric in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _scripts(drawn: Mapping[str, Figure]) -> str:
    if not drawn:
        return ""
    from plotly.offline import get_plotlyjs

    data = json.dumps(drawn, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'\n<script type="application/json" id="figures">{data}</script>\n<script>{get_plotlyjs()}</script>\n'
        f"<script>{_asset('page.js')}</script>\n"
    )
