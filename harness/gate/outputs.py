"""Output files of the gate: JUnit XML for CI systems, Markdown for a pull request, JSON for programs."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import groupby
from typing import Any

from harness.gate.verdict import GateResult, Judged
from harness.gate.wording import change_text, levels_text, sentence, value_text, verdict_text
from harness.store.codec import to_json

_SIGN = {"pass": "✅", "regressed": "❌", "cannot tell": "❓", "note": "ℹ️"}
REASONS_IN_MARKDOWN = 30
"""GitHub cuts a step summary at 1 MiB; a comment reader stops earlier."""


def as_junit(result: GateResult) -> str:
    """JUnit XML: one test case per candidate and metric, one per finding.

    Regressed is a <failure>: the code is worse. Cannot tell is an <error>, JUnit's word for a test that could not be
    carried out: not <skipped>, which CI systems show as green while the command's exit code is 4.
    """
    cases = [_finding_case(finding) for finding in result.findings]
    cases += [_case(judged) for judged in result.judged]
    if result.refusals or not cases:
        cases.append(_outcome_case("gate", "comparable", "error", "; ".join((result.headline, *result.refusals))))
    suite = ET.Element("testsuite", name="dyno gate", tests=str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("errors", str(sum(case.find("error") is not None for case in cases)))
    suite.set("skipped", "0")
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("verdict", result.verdict),
        ("headline", result.headline),
        *(("baseline", str(path)) for path in result.baseline),
        ("candidate", str(result.candidate)),
    ):
        ET.SubElement(properties, "property", name=name, value=_printable(value))
    suite.extend(cases)
    notes = ET.SubElement(suite, "system-out")
    notes.text = _printable("\n".join(result.notes))
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(judged: Judged) -> ET.Element:
    comparison = judged.comparison
    kind = {"pass": "", "regressed": "failure", "cannot tell": "error"}[judged.verdict]
    case = _outcome_case(comparison.label, comparison.metric, kind, sentence(judged))
    if not kind:
        ET.SubElement(case, "system-out").text = _printable(sentence(judged))
    return case


def _finding_case(finding: Any) -> ET.Element:
    kind = {"note": "", "regressed": "failure", "cannot tell": "error"}[finding.verdict]
    return _outcome_case(finding.label, "works", kind, finding.reason)


def _outcome_case(class_name: str, name: str, kind: str, text: str) -> ET.Element:
    case = ET.Element("testcase", classname=_printable(class_name), name=_printable(name), time="0")
    if kind:
        word = "regressed" if kind == "failure" else "cannot tell"
        outcome = ET.SubElement(case, kind, type=word, message=_printable(text.splitlines()[0] if text else word))
        outcome.text = _printable(text)
    return case


def _printable(text: str) -> str:
    """Without the control characters that XML 1.0 forbids."""
    return "".join(char for char in text if char in "\t\n" or char >= " ")


def as_markdown(result: GateResult) -> str:
    """A summary for GITHUB_STEP_SUMMARY or a comment: verdict, tables, reasons of what is wrong, the rest folded."""
    lines = [f"### {_SIGN[result.verdict]} {_cell(result.headline)}", ""]
    lines += [f"- {_cell(refusal)}" for refusal in result.refusals]
    lines += [f"- {_SIGN[each.verdict]} **{_cell(each.label)}**: {_cell(each.reason)}" for each in result.findings]
    for label, group in groupby(result.judged, key=lambda each: each.comparison.label):
        lines += ["", f"**{_cell(label)}**", "", *_table(list(group))]
    reasons = _reasons(result)
    wrong = [line for verdict, line in reasons if verdict != "pass"]
    if wrong:
        lines += ["", *wrong[:REASONS_IN_MARKDOWN]]
        if len(wrong) > REASONS_IN_MARKDOWN:
            lines.append(f"- ... and {len(wrong) - REASONS_IN_MARKDOWN} more, each in its row above")
    fine = [line for verdict, line in reasons if verdict == "pass"]
    folded = [*fine, *(f"- {_cell(note)}" for note in result.notes)]
    if folded:
        lines += ["", "<details><summary>Details and notes</summary>", "", *folded, ""]
        lines += [levels_text(result.rules.false_alarm, result.rules.false_pass), "", "</details>"]
    return "\n".join(lines) + "\n"


def _reasons(result: GateResult) -> list[tuple[str, str]]:
    """(verdict, list item) of every comparison, with its candidate's name where there are several."""
    is_one = len({each.comparison.label for each in result.judged}) == 1
    names = ["" if is_one else f"**{_cell(each.comparison.label)}**: " for each in result.judged]
    return [(each.verdict, f"- {name}{_cell(sentence(each))}") for each, name in zip(result.judged, names, strict=True)]


def _table(rows: list[Judged]) -> list[str]:
    lines = ["| metric | baseline | candidate | change [interval] | budget | verdict |", "|---|--:|--:|--:|--:|---|"]
    for row in rows:
        cells = (
            row.comparison.metric,
            value_text(row.comparison, row.comparison.baseline),
            value_text(row.comparison, row.comparison.candidate),
            change_text(row),
            row.comparison.budget,
            f"{_SIGN[row.verdict]} {verdict_text(row)}",
        )
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return lines


def _cell(text: str) -> str:
    """One line, with what Markdown would take for a column or a tag made harmless."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def as_dict(result: GateResult) -> dict[str, Any]:
    """JSON-able; every number of the tables, the p values and levels behind the verdicts."""
    return {
        "verdict": result.verdict,
        "exit_code": result.exit_code,
        "headline": result.headline,
        "baseline": [str(path) for path in result.baseline],
        "candidate": str(result.candidate),
        "comparisons": [_comparison(judged) for judged in result.judged],
        "findings": to_json(result.findings),
        "refusals": list(result.refusals),
        "notes": list(result.notes),
        "false_alarm": result.rules.false_alarm,
        "false_pass": result.rules.false_pass,
    }


def _comparison(judged: Judged) -> dict[str, Any]:
    comparison = judged.comparison
    return {
        "candidate_id": comparison.candidate_id,
        "label": comparison.label,
        "metric": comparison.metric,
        "unit": comparison.unit,
        "baseline": comparison.baseline,
        "candidate": comparison.candidate,
        "change_kind": "relative" if comparison.scale == "log" else "difference",
        "change": judged.change,
        "low": judged.low,
        "high": judged.high,
        "budget": comparison.budget,
        "verdict": judged.verdict,
        "is_better": judged.is_better,
        "p": judged.p,
        "level": judged.level,
        "launches": [comparison.launches_baseline, comparison.launches_candidate],
        "requests": comparison.requests,
        "reason": judged.reason,
        "more": to_json(judged.more),
    }
