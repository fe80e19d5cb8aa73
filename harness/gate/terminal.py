"""The answer in the terminal: verdict first, then the tables, then the reasons."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.gate.verdict import GateResult, Judged, Verdict
from harness.gate.words import change_text, levels_text, value_text, verdict_text

_STYLE: dict[Verdict, str] = {"pass": "green", "regressed": "bold red", "cannot tell": "yellow"}


def print_result(result: GateResult, console: Console) -> None:
    """Print the whole answer; rich leaves colours out with NO_COLOR and where stdout is no terminal."""
    console.print(f"[{_STYLE[result.verdict]}]{escape(result.headline)}[/]", soft_wrap=True)
    for refusal in result.refusals:
        console.print(f"  {escape(refusal)}", soft_wrap=True)
    for label, group in groupby(result.judged, key=lambda each: each.comparison.label):
        rows = list(group)
        console.print()
        console.print(_table(label, rows))
    _print_reasons(result, console)


def _table(label: str, rows: list[Judged]) -> Table:
    first = rows[0].comparison
    title = f"{label} ({first.launches_baseline} and {first.launches_candidate} launches)"
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for heading in ("metric", "baseline", "candidate", "change [interval]", "budget", "verdict"):
        table.add_column(heading, justify="left" if heading in ("metric", "verdict") else "right", overflow="fold")
    for row in rows:
        comparison = row.comparison
        style = _STYLE[row.verdict]
        table.add_row(
            comparison.metric,
            value_text(comparison, comparison.baseline),
            value_text(comparison, comparison.candidate),
            change_text(row),
            comparison.budget,
            f"[{style}]{verdict_text(row)}[/]",
        )
    return table


def _print_reasons(result: GateResult, console: Console) -> None:
    lines = [f"{finding.verdict}: {finding.label}: {finding.reason}" for finding in result.findings]
    labels = {each.comparison.label for each in result.judged}
    for judged in sorted(result.judged, key=lambda each: each.verdict == "pass"):
        who = f"{judged.comparison.label}: " if len(labels) > 1 else ""
        lines.append(f"{judged.verdict}: {who}{judged.comparison.metric}: {judged.reason}")
    if lines:
        console.print("\nWhy", style="bold")
    for line in lines:
        console.print(f"  {escape(line)}", soft_wrap=True)
    if result.notes:
        console.print("\nNotes", style="bold")
    for note in result.notes:
        console.print(f"  {escape(note)}", soft_wrap=True)
    console.print()
    if result.judged:
        console.print(levels_text(result.rules.false_alarm, result.rules.false_pass), soft_wrap=True)
    for path in result.baseline:
        console.print(f"Baseline:  {escape(str(path))}", soft_wrap=True)
    console.print(f"Candidate: {escape(str(result.candidate))}", soft_wrap=True)
