"""`dyno report` on stored runs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from harness.cli.main import run as dyno
from tests.harness.choose.runs import candidate, failed, store, trial


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    store(
        root,
        [
            trial(1, candidate(), (61.2, 60.0, 62.0)),
            trial(2, candidate("ctranslate2"), (20.1, 19.8, 20.6)),
            failed(3, candidate(batch_size=8)),
        ],
    )
    return root


def test_the_table_ends_with_the_next_command(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dyno(["report", "made", "--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert "Data" in out
    assert "launch_failed: transformers fp32, batch 8" in out
    assert out.strip().splitlines()[-1].startswith("Next: dyno recommend ")


def test_csv_and_json_are_nothing_but_themselves(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dyno(["report", "latest", "--results", str(results), "--format", "csv"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 3
    assert dyno(["report", "--results", str(results), "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["trials"]) == 3


def test_the_page_goes_into_the_run_unless_another_place_is_named(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dyno(["report", "--results", str(results), "--format", "html"]) == 0
    (run,) = results.glob("made/*")
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert f"wrote {run / 'report.html'}" in capsys.readouterr().out
    page = tmp_path / "deep" / "report.html"
    assert dyno(["report", "--results", str(results), "--format", "html", "--out", str(page)]) == 0
    assert page.is_file()


def test_terminal_and_markdown_say_the_same(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dyno(["report", "made", "--results", str(results)]) == 0
    terminal = capsys.readouterr().out
    assert dyno(["report", "made", "--results", str(results), "--format", "markdown"]) == 0
    markdown = capsys.readouterr().out
    shared = ["Recommended", "ctranslate2 fp32, batch 1, 1 worker", "Why:", "Verification: not done", "A CPU"]
    shared += ["Engines side by side", "What mattered", "it takes 8 measured candidates", "Why the others lost"]
    for words in shared:
        assert words in terminal, words
        assert words in markdown, words
    assert terminal.startswith("Recommended")
    assert markdown.index("Recommended") < markdown.index("| Choice")


def test_two_runs_stand_side_by_side(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = store(tmp_path / "other", [trial(1, candidate(), (70.0, 69.0, 71.0)), failed(2, candidate("ctranslate2"))])
    (run,) = results.glob("made/*")
    assert dyno(["report", str(run), str(other)]) == 0
    shown = capsys.readouterr().out
    assert "What each run recommends" in shown
    assert "+14.4 % [" in shown
    assert "launch_failed" in shown
    assert dyno(["report", str(run), str(other), "--format", "markdown"]) == 0
    assert "+14.4 % [" in capsys.readouterr().out
    assert dyno(["report", str(run), str(other), "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2
    assert dyno(["report", str(run), str(other), "--format", "html"]) == 0
    assert (run / f"compare-{other.name}.html").is_file()
    assert dyno(["report", str(run), str(other), "--format", "csv"]) == 2
    assert "--format json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nowhere"], "neither a run folder, nor a scenario with runs"),
        (["report", "made", "--sort", "speed"], "--sort speed: not a metric"),
    ],
)
def test_a_wrong_run_or_metric_is_one_sentence_and_exit_2(
    arguments: list[str], message: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dyno([*arguments, "--results", str(results)]) == 2
    assert message in capsys.readouterr().err


def test_the_published_row_is_asked_for_by_option(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dyno(["report", "made", "--results", str(results), "--baseline", "published"]) == 0
    assert "Published baseline: none for flan-t5-bench" in capsys.readouterr().out
