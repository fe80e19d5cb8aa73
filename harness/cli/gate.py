"""`dyno gate`: compares a candidate run with a baseline run, with pass, regressed or cannot tell as exit code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from engines.launching import why_stale
from harness.cli.gate_images import ENDPOINT_NAMES, check_unused, endpoint_options, measured, planned
from harness.cli.signals import stopped_by_signals
from harness.errors import UsageError
from harness.gate.export import export_baseline
from harness.gate.gate import gate
from harness.gate.outputs import as_dict, as_junit, as_markdown
from harness.gate.rules import Rules
from harness.gate.rules_file import load_rules
from harness.gate.terminal import print_result
from harness.gate.verdict import GateResult
from harness.report.text.table_formats import stdout_console
from harness.space.check_files import checked_scenario
from harness.store.disk import write_text
from harness.store.layout import DEFAULT_RESULTS
from harness.store.reader import find_run, read_run
from harness.trial.inputs import with_checked_code
from harness.trial.side_by_side import Order, measure_again, measure_side_by_side

DEFAULT_MINUTES = 30.0
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    "gate",
    epilog="Exit: 0 pass, 1 regressed, 2 usage or rules file, 3 machine, 4 cannot tell (with what it would take), "
    "130 interrupted.",
)
@click.option("--baseline", "baselines", multiple=True, metavar="RUN", help="Run to compare with; may be repeated.")
@click.option("--candidate", metavar="RUN", help="Run to judge (default latest).")
@click.option("--rules", type=click.Path(path_type=Path), metavar="FILE", help="Budgets per metric (YAML).")
@click.option(
    "--scenario", type=click.Path(path_type=Path), metavar="FILE", help="Scenario to measure the candidate with now."
)
@click.option(
    "--baseline-ref",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Another checkout of this repository to measure side by side.",
)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the scenario.")
@click.option(
    "--images",
    nargs=2,
    metavar="OLD NEW",
    help="Measure the candidate run's winner as a SageMaker endpoint on two images (URIs or LMI versions) in turns.",
)
@endpoint_options
@click.option("--repetitions", type=click.IntRange(min=1), metavar="N", help="Fixed number of launches of each side.")
@click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True),
              help="Minutes after which measuring stops (default 30; with --images twice the expected).")  # fmt: skip
@click.option("--allow-different-machine", is_flag=True, help="Compare runs from different machines anyway.")
@click.option("--junit", type=_FILE, metavar="FILE", help="Also write JUnit XML.")
@click.option("--markdown", type=_FILE, metavar="FILE", help="Also write a Markdown summary.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object.")
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a compact baseline to this folder and judge nothing.",
)
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the runs (default results/local).")
def command(
    rules: Path | None,
    max_minutes: float | None,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
    export: Path | None,
    results: Path | None,
    images: tuple[str, str] | None,
    **given: Any,
) -> int:
    """Judge a candidate run against a baseline: pass, regressed, or cannot tell.

    RUN is a run folder, a scenario's name (its newest run) or 'latest'. Three or more baseline runs put the spread
    between sittings into the intervals. With --scenario the candidate is measured now: beside another checkout
    (--baseline-ref, in turns, until settled), or against a stored run (--baseline).

    \b
    Examples:
      dyno gate --baseline results/baseline --candidate latest --junit gate.xml
      dyno gate --scenario scenarios/gate.yaml --baseline-ref ../main --max-minutes 20
      dyno gate --scenario scenarios/gate.yaml --baseline results/baseline --repetitions 4
      dyno gate --baseline gate --export results/baseline
      dyno gate --images 0.36.0-lmi20 0.36.0-lmi27 --candidate RUN --instance ml.g5.xlarge --dry-run
    """

    endpoint = {name: given.pop(name) for name in ENDPOINT_NAMES}
    asked = _Asked(
        rules=load_rules(rules), max_minutes=max_minutes or DEFAULT_MINUTES, results=results or DEFAULT_RESULTS, **given
    )
    if images is None:
        check_unused(endpoint)
        if export is not None:
            return asked.export(export)
        result = asked.answer()
    else:
        asked.check_alone("--images")
        plan = planned(read_run(find_run(asked.results, asked.candidate)), images, asked.repetitions, endpoint)
        if endpoint["dry_run"]:
            click.echo(plan.as_json() if as_json else "\n".join(plan.lines()))
            return 0
        result = measured(plan, asked.rules, asked.results, max_minutes)
    _write(result, junit, markdown)
    _print(result, as_json=as_json)
    return result.exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One command line."""

    baselines: tuple[str, ...]
    candidate: str | None
    rules: Rules
    scenario: Path | None
    baseline_ref: Path | None
    overrides: tuple[str, ...]
    repetitions: int | None
    max_minutes: float
    allow_different_machine: bool
    results: Path

    def export(self, folder: Path) -> int:
        """Write the one baseline as a compact run folder."""

        if len(self.baselines) != 1:
            raise UsageError("--export: expected exactly one --baseline RUN to export; name it")
        written = export_baseline(read_run(find_run(self.results, self.baselines[0])), folder)
        size_kib = sum(path.stat().st_size for path in written) / 1024
        click.echo(f"wrote {folder} ({len(written)} files, {size_kib:.0f} KiB)")
        click.echo(f"Next: dyno gate --baseline {folder} --candidate latest")
        return 0

    def answer(self) -> GateResult:
        """Measure what is to be measured, then judge stored runs."""

        self._check()
        with stopped_by_signals():
            if self.scenario is not None and self.baseline_ref is not None:
                return self._side_by_side()
            roots = [find_run(self.results, ref) for ref in self.baselines]
            target = find_run(self.results, self.candidate) if self.scenario is None else self._measured_now(roots[0])
        if target.resolve() in [root.resolve() for root in roots]:
            raise UsageError(f"{target}: both baseline and candidate; name two runs (--baseline RUN --candidate RUN)")
        runs = [read_run(root) for root in roots]
        return gate(runs, read_run(target), self.rules, allows_different_machine=self.allow_different_machine)

    def check_alone(self, option: str) -> None:
        """Raises UsageError where another way to measure is asked for too."""
        if self.baselines or self.scenario is not None or self.baseline_ref is not None or self.overrides:
            raise UsageError(
                f"{option}: measures both sides itself; leave --baseline, --scenario and --set out (the run is its "
                "--candidate)"
            )

    def _check(self) -> None:
        if self.scenario is None and self.baseline_ref is not None:
            raise UsageError("--baseline-ref: expected --scenario FILE beside it, got none; name what to measure")
        if self.scenario is None and self.overrides:
            raise UsageError("--set: expected --scenario FILE beside it, got none; stored runs cannot be changed")
        if self.baseline_ref is not None and (self.baselines or self.candidate):
            raise UsageError("--baseline-ref: measures both sides itself; leave --baseline and --candidate out")
        if self.scenario is not None and self.candidate is not None:
            raise UsageError("--scenario: measures the candidate itself; leave --candidate out")
        if self.baseline_ref is None and not self.baselines:
            raise UsageError("expected --baseline RUN (or --scenario FILE --baseline-ref DIR), got neither")

    def _side_by_side(self) -> GateResult:

        assert self.scenario is not None
        assert self.baseline_ref is not None
        return measure_side_by_side(self._order(), self.baseline_ref, self.rules, _announce)

    def _measured_now(self, baseline: Path) -> Path:

        return measure_again(self._order(), read_run(baseline), _announce)

    def _order(self) -> Order:

        assert self.scenario is not None
        resolved = checked_scenario(self.scenario, self.overrides)
        stale = (why_stale(block.engine, block.python or "") for block in resolved.scenario.space)
        for why in filter(None, dict.fromkeys(stale)):
            _announce(f"warning: {why}")
        return Order(
            resolved=with_checked_code(resolved),
            results=self.results,
            repetitions=self.repetitions,
            max_minutes=self.max_minutes,
        )


def _announce(text: str) -> None:
    click.echo(text, err=True)


def _write(result: GateResult, junit: Path | None, markdown: Path | None) -> None:

    for path, text in ((junit, as_junit), (markdown, as_markdown)):
        if path is not None:
            write_text(path, text(result))
            _announce(f"wrote {path}")


def _print(result: GateResult, *, as_json: bool) -> None:

    if as_json:
        click.echo(json.dumps(as_dict(result), indent=2))
        return
    print_result(result, stdout_console())
    click.echo(f"Next: dyno report {result.candidate}")
