"""`dyno recommend`: choose from a stored run, write the files, verify them; or lint a file that exists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.errors import MeasurementInvalid, UsageError

if TYPE_CHECKING:
    from harness.recommend.lint import Finding
    from harness.recommend.write import Written
    from harness.records import Recommendation
    from harness.store.reader import Run

LINT_FAILED = 1
"""Exit code when the linter found an error: a check said no (house style 35)."""


@click.command(
    "recommend", epilog="Exit: 0 ok, 1 --lint found errors, 2 usage, 3 machine, 4 no valid choice or not reproduced."
)
@click.argument("run", required=False)
@click.option("--container", metavar="VERSION", help="Where it will be served: dynamometer-0.1, 0.36.0-lmi20, ...")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the files.")
@click.option("--verify", is_flag=True, help="Start the server from the written file and measure again.")
@click.option("--lint", "lint_file", type=click.Path(path_type=Path), metavar="FILE", help="Only check FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the runs (default results/local).")
def command(
    run: str | None,
    container: str | None,
    out: Path | None,
    verify: bool,
    lint_file: Path | None,
    as_json: bool,
    results: Path | None,
) -> int:
    """Choose the best measured candidate of RUN, say why the others lost, write serving.properties.

    RUN is a run folder, a scenario's name (its newest run) or 'latest'.

    \b
    Examples:
      dyno recommend latest
      dyno recommend quickstart --container 0.36.0-lmi20 --out model/
      dyno recommend latest --container dynamometer-0.1 --verify
      dyno recommend --lint serving.properties --container 0.24.0

    --lint also reads the config.json and model.py beside FILE, where there are any.
    """
    if lint_file is not None:
        if run is not None or verify or out is not None:
            raise UsageError("--lint FILE checks a file that exists: leave RUN, --out and --verify out")
        return _lint(lint_file, container or "dynamometer-0.1", as_json)
    return _recommend(run, container, out, verify, as_json, results)


def _lint(path: Path, container: str, as_json: bool) -> int:
    from harness.recommend.lint import lint, model_facts
    from harness.recommend.text import findings_text

    text = _read(path)
    script = path.parent / "model.py"
    findings = lint(text, container, model_facts(path.parent), _read(script) if script.is_file() else "")
    if as_json:
        click.echo(json.dumps({"file": str(path), "container": container, "findings": _as_rows(findings)}, indent=2))
    else:
        click.echo(findings_text(path, findings))
    return LINT_FAILED if any(finding.severity == "error" for finding in findings) else 0


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return path.read_bytes().decode("latin-1")  # what java.util.Properties does with a byte stream
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); name an existing serving.properties") from error


def _as_rows(findings: list[Finding]) -> list[dict[str, Any]]:
    return [{name: getattr(finding, name) for name in ("line", "key", "severity", "message")} for finding in findings]


def _recommend(
    ref: str | None, container: str | None, out: Path | None, verify: bool, as_json: bool, results: Path | None
) -> int:
    from harness.recommend.choose import choose
    from harness.recommend.text import as_text, findings_text, next_command
    from harness.recommend.write import scenario_container, write_recommendation
    from harness.store.layout import DEFAULT_RESULTS
    from harness.store.reader import find_run, read_run

    run = read_run(find_run(results or DEFAULT_RESULTS, ref))
    for note in run.notes:
        click.echo(note, err=True)
    recommendation = choose(run)
    target = container or scenario_container(run)
    if verify and not target.startswith("dynamometer-"):
        raise UsageError(f"--verify starts our own server and cannot start {target}; use --container dynamometer-0.1")
    if not as_json:
        click.echo(as_text(recommendation))
    written = write_recommendation(run, recommendation, target, out)
    for path in written.paths:
        click.echo(f"wrote {path}", err=True)
    if written.warnings:
        click.echo(findings_text(written.properties_path, written.warnings), err=True)
    verdict = _verify(run, recommendation, written) if verify else None
    if as_json:
        click.echo(json.dumps(_as_json(recommendation, written, verdict), indent=2))
    else:
        if verdict is not None:
            click.echo(f"Measured again from the written file: {verdict['sentence']}")
        click.echo(f"Next: {next_command(target, written.properties_path.parent)}")
    return MeasurementInvalid.exit_code if verdict is not None and not verdict["is_inside"] else 0


def _verify(run: Run, recommendation: Recommendation, written: Written) -> dict[str, Any]:
    from harness.execute.verify import verify
    from harness.store.codec import to_json

    found = verify(run, recommendation, written.properties_path, lambda text: click.echo(text, err=True))
    return {"is_inside": found.is_inside, "sentence": found.sentence, "trial": to_json(found.trial)}


def _as_json(recommendation: Recommendation, written: Written, verdict: dict[str, Any] | None) -> dict[str, Any]:
    from harness.store.codec import to_json

    answer: dict[str, Any] = {
        "recommendation": to_json(recommendation),
        "container": written.container,
        "files": [str(path) for path in written.paths],
        "warnings": _as_rows(list(written.warnings)),
    }
    if verdict is not None:
        answer["verification"] = verdict
    return answer
