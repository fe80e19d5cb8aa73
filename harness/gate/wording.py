"""Wording of the gate's numbers and changes, the same in the terminal, in Markdown and in JUnit."""

from __future__ import annotations

from harness.gate.compare import Comparison
from harness.gate.verdict import Judged
from harness.wording import unit_suffix


def value_text(comparison: Comparison, value: float | None) -> str:
    """'12.34 ms', '98.4 %' of a share, '-' where there is none."""
    if value is None:
        return "-"
    if comparison.unit == "frac":
        return f"{100 * value:.4g} %"
    return f"{value:.4g}{unit_suffix(comparison.unit)}"


def change_text(judged: Judged) -> str:
    """'+5.1 % [+3.9, +6.3]'; points for shares."""
    if judged.change is None or judged.low is None or judged.high is None:
        return "-"
    if judged.comparison.scale == "log":
        return f"{_signed(judged.change)} % [{_signed(judged.low)}, {_signed(judged.high)}]"
    if judged.comparison.unit == "frac":
        return f"{_signed(judged.change)} points [{_signed(judged.low)}, {_signed(judged.high)}]"
    change, low, high = (f"{number:+.3g}" for number in (judged.change, judged.low, judged.high))
    return f"{change}{unit_suffix(judged.comparison.unit)} [{low}, {high}]"


def verdict_text(judged: Judged) -> str:
    """The verdict, and 'better' where the candidate certainly is."""
    return "pass, better" if judged.is_better else judged.verdict


def sentence(judged: Judged) -> str:
    """One whole sentence about a comparison."""
    comparison = judged.comparison
    if judged.change is None:
        return f"{comparison.metric}: {judged.verdict}: {judged.reason}"
    before, after = (value_text(comparison, each) for each in (comparison.baseline, comparison.candidate))
    return (
        f"{comparison.metric}: {verdict_text(judged)}: {before} -> {after}, {change_text(judged)}, "
        f"budget {comparison.budget}; {judged.reason}"
    )


def levels_text(false_alarm: float, false_pass: float) -> str:
    """How to read the intervals."""
    return (
        f"Intervals: the end on the good side guards against false alarms ({100 * false_alarm:g} % per gate, "
        f"Holm), the other against a false pass ({100 * false_pass:g} % each)."
    )


def _signed(frac: float) -> str:
    percent = 100 * frac
    text = f"{percent:+.1f}" if abs(percent) < 100 else f"{percent:+.0f}"
    return "0.0" if text in ("+0.0", "-0.0") else text
