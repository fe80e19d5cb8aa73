"""Runs and a gate baseline of c252706 are read, reported, recommended from, compared and judged as they were."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli.main import run as dyno
from harness.store.answers import read_outputs
from harness.store.codec import to_json
from harness.store.layout import RunLayout
from harness.store.reader import read_request_records, read_requests, read_run, read_telemetry
from tests.older_versions import written_then
from tests.older_versions.written_then import AFTER, BASELINE, BEFORE, BUNDLED, FOLDER, HALFWAY, LAWS, RUNS, printed

FINISHED = {"laws": LAWS, "bundled": BUNDLED}

Dyno = Callable[..., str]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Dyno:
    """Standard output of `dyno ARGUMENTS`, which must end with exit code `code`."""

    def _ask(*arguments: str | Path, code: int = 0) -> str:
        capsys.readouterr()
        ended = dyno([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert ended == code, captured.err
        return captured.out

    return _ask


@pytest.fixture(autouse=True)
def _one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize("root", [*RUNS.values(), BASELINE], ids=[*RUNS, "baseline"])
def test_every_field_of_every_trial_is_read_and_written_back_as_it_stands(root: Path) -> None:
    run = read_run(root)
    assert run.notes == ()
    lines = [json.loads(line) for line in (root / "trials.jsonl").read_text().splitlines()]
    assert len(lines) == len(run.trials)
    for line, trial in zip(lines, run.trials, strict=True):
        assert line.pop("format") == 1
        written_then.assert_still_reported(line, to_json(trial))
    written_then.assert_still_reported(json.loads((root / "run.json").read_text()), to_json(run.manifest))


@pytest.mark.parametrize("root", RUNS.values(), ids=list(RUNS))
def test_raw_records_answers_and_telemetry_are_read(root: Path) -> None:
    layout = RunLayout(root)
    measured = [trial for trial in read_run(root).trials if layout.requests(trial.trial_id).exists()]
    assert measured
    for trial in measured:
        records = read_request_records(root, trial.trial_id)
        assert len(records) == len(read_requests(root, trial.trial_id))
        if trial.outcome == "ok":
            assert trial.summary is not None
            answered = Counter(record.outcome for record in records if not record.is_warmup)
            assert answered["ok"] == trial.summary.metrics["latency_p50_ms"].n
            assert read_outputs(root, trial.trial_id)
        telemetry = read_telemetry(root, trial.trial_id)
        assert (telemetry is not None) == layout.telemetry(trial.trial_id).exists()
        assert telemetry is None or "cpu_frac_engine" in telemetry


def test_the_raw_records_summarise_to_the_stored_numbers() -> None:
    """The middle of the latencies, by hand: the columns still mean what they meant."""
    for trial in read_run(LAWS).trials:
        if trial.summary is None or trial.outcome != "ok":
            continue
        frame = read_requests(LAWS, trial.trial_id).query("not is_warmup and outcome == 'ok'")
        middle_ms = (frame["done_ns"] - frame["intended_ns"]).quantile(0.5) / 1e6
        assert middle_ms == pytest.approx(trial.summary.metrics["latency_p50_ms"].value, rel=1e-6)


@pytest.mark.parametrize(("name", "root"), FINISHED.items(), ids=list(FINISHED))
def test_the_choice_and_its_reasons_are_the_same(name: str, root: Path, ask: Dyno, tmp_path: Path) -> None:
    now = json.loads(ask("recommend", root, "--json", "--out", tmp_path))
    written_then.assert_still_reported(printed(f"{name}.recommend.json"), now)
    assert _keys_and_values(tmp_path) == _keys_and_values(root / "recommendation")


def test_the_choice_of_the_interrupted_run_is_the_same(ask: Dyno, tmp_path: Path) -> None:
    now = json.loads(ask("recommend", HALFWAY, "--json", "--out", tmp_path))
    written_then.assert_still_reported(printed("halfway.recommend.json"), now)


@pytest.mark.parametrize("name", ["halfway", "bundled"])
def test_a_report_in_json_says_the_same(name: str, ask: Dyno) -> None:
    then = printed(f"{name}.report.json")
    del then["notes"]  # notes to the reader, of the version that prints them
    written_then.assert_still_reported(then, json.loads(ask("report", RUNS[name], "--format", "json")))


@pytest.mark.parametrize("name", ["laws", "halfway", "bundled"])
def test_a_report_in_csv_has_every_column_with_the_same_value(name: str, ask: Dyno) -> None:
    then = list(csv.DictReader(io.StringIO((FOLDER / "printed" / f"{name}.report.csv").read_text())))
    now = list(csv.DictReader(io.StringIO(ask("report", RUNS[name], "--format", "csv"))))
    assert len(then) == len(now)
    for old, new in zip(then, now, strict=True):
        assert written_then.as_named_now(old) == {column: new.get(column) for column in old}


@pytest.mark.parametrize("form", ["terminal", "markdown", "html"])
@pytest.mark.parametrize("name", ["laws", "halfway", "bundled"])
def test_a_report_for_people_shows_every_trial_and_the_choice(name: str, form: str, ask: Dyno, tmp_path: Path) -> None:
    page = tmp_path / "page"
    shown = ask("report", RUNS[name], "--format", form, *(["--out", page] if form != "terminal" else []))
    text = " ".join((page.read_text() if form != "terminal" else shown).split())
    run = read_run(RUNS[name])
    for trial in run.trials:
        if trial.outcome not in ("ok", "interrupted"):
            assert trial.trial_id in text
    best = printed(f"{name}.recommend.json")["recommendation"]["trial"]
    assert f"{best['summary']['metrics']['latency_p50_ms']['value']:.3g}"[:4] in text
    assert "Why the others lost" in text or name == "halfway"


@pytest.mark.parametrize("form", ["terminal", "markdown", "json", "html"])
def test_runs_are_compared(form: str, ask: Dyno, tmp_path: Path) -> None:
    page = tmp_path / "page"
    shown = ask("report", BEFORE, AFTER, "--format", form, *(["--out", page] if form != "terminal" else []))
    text = page.read_text() if form != "terminal" else shown
    then = printed("gated.compare.json")
    assert all(run.name in text for run in (BEFORE, AFTER))
    cells = [cell for section in then["sections"] for row in section["rows"] for cell in row if "%" in str(cell)]
    assert cells
    assert all(_plain(cell) in _plain(text) for cell in cells)


@pytest.mark.parametrize(
    ("baseline", "name"), [(BEFORE, "pairs.gate.json"), (BASELINE, "baseline.gate.json")], ids=["pairs", "baseline"]
)
def test_the_gate_judges_as_it_did(baseline: Path, name: str, ask: Dyno) -> None:
    then = printed(name)
    now = json.loads(ask("gate", "--baseline", baseline, "--candidate", AFTER, "--json", code=then["exit_code"]))
    del then["notes"]
    written_then.assert_still_reported(then, now)


@pytest.mark.parametrize("root", [LAWS, HALFWAY, BUNDLED, BASELINE], ids=["laws", "halfway", "bundled", "baseline"])
def test_a_run_gated_against_its_own_copy_is_not_regressed(root: Path, ask: Dyno, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    dyno(["gate", "--baseline", str(root), "--candidate", str(copy), "--junit", str(tmp_path / "gate.xml")])
    now = json.loads(ask("gate", "--baseline", root, "--candidate", copy, "--json", code=4))
    assert now["verdict"] == "cannot tell"  # so few launches leave the times open
    assert {row["verdict"] for row in now["comparisons"]} == {"pass", "cannot tell"}
    assert {row["change"] for row in now["comparisons"]} - {None} == {0.0}
    assert (tmp_path / "gate.xml").is_file()


def test_an_export_of_an_old_run_is_the_baseline_of_then(ask: Dyno, tmp_path: Path) -> None:
    made = tmp_path / "baseline"
    ask("gate", "--baseline", BEFORE, "--export", made)
    assert _files(made) == _files(BASELINE)
    for old, new in zip(read_run(BASELINE).trials, read_run(made).trials, strict=True):
        assert old == new
        assert read_requests(BASELINE, old.trial_id).equals(read_requests(made, new.trial_id))
        assert read_outputs(BASELINE, old.trial_id) == read_outputs(made, new.trial_id)


def _files(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*"))


def _keys_and_values(folder: Path) -> dict[str, str]:
    lines = (folder / "serving.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _plain(text: object) -> str:
    """Without what a format adds: white space, escapes."""
    return "".join(str(text).replace("&gt;", ">").replace("\\u2026", "…").split())
