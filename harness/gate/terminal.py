"""The gate's result in the terminal: verdict first, then the tables, then the reasons."""

from __future__ import annotations

from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.gate.verdict import GateResult, Judged, Verdict
from harness.gate.wording import change_text, levels_text, value_text, verdict_text

_STYLE: dict[Verdict, str] = {"pass": "green", "regressed": "bold red", "cannot tell": "yellow"}


def print_result(result: GateResult, console: Console) -> None:
    """Print the whole answer; rich leaves colours out with NO_COLOR and where stdout is no terminal."""
    _print(console, f"[{_STYLE[result.verdict]}]{escape(result.headline)}[/]")
    for refusal in result.refusals:
        _print(console, f"  {escape(refusal)}")
    for label, group in groupby(result.judged, key=lambda each: each.comparison.label):
        rows = list(group)
        console.print()
        console.print(_table(label, rows), highlight=False)
    _print_reasons(result, console)


def _table(label: str, rows: list[Judged]) -> Table:
    first = rows[0].comparison
    title = f"{label} ({first.launches_baseline} and {first.launches_candidate} launches)"
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("metric", "baseline", "candidate", "change [interval]", "budget", "verdict"):
        is_word = heading in ("metric", "verdict")
        table.add_column(heading, justify="left" if is_word else "right", no_wrap=heading == "metric", overflow="fold")
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
        _print(console, f"  {escape(line)}")
    if result.notes:
        console.print("\nNotes", style="bold")
    for note in result.notes:
        _print(console, f"  {escape(note)}")
    console.print()
    if result.judged:
        _print(console, escape(levels_text(result.rules.false_alarm, result.rules.false_pass)))
    for path in result.baseline:
        _print(console, f"Baseline:  {escape(str(path))}")
    _print(console, f"Candidate: {escape(str(result.candidate))}")


def _print(console: Console, text: str) -> None:
    """One line, wrapped by the terminal alone; numbers in it are not coloured."""
    console.print(text, soft_wrap=True, highlight=False)
