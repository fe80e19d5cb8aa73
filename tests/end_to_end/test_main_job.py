"""The main job on real engines and the real bundled model, by the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.end_to_end.commands import ROOT, dyno, dyno_here

SCENARIO = f"""
name: main-job
model: {{path: {ROOT}/scenarios/assets/flan-t5-bench}}
workload:
  prompts: {ROOT}/scenarios/assets/prompts/tasks.jsonl
  parameters: {{max_new_tokens: 96}}
  load: {{kind: closed, users: 4}}
  warmup_requests: 4
  requests: 40
  max_duration_s: 6
quality: {{prompts: 24, max_exact_match_drop: 0.05}}
space:
  - {{engine: ctranslate2, dtype: [fp32, int8], batch_size: 4}}
  - {{engine: transformers, dtype: fp32, batch_size: 4}}
objectives: [{{metric: latency_p50_ms, goal: minimize}}]
constraints: {{quality: Normal, error_frac: {{max: 0.0}}}}
search: {{sampler: grid, trials: 3, max_minutes: 10, seed: 0, confirm: {{finalists: 1, repetitions: 0}}}}
recommend: {{container: dynamometer-0.1}}
"""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Folder, run folder and stdout of one finished `dyno tune`."""
    folder = tmp_path_factory.mktemp("main-job")
    (folder / "main-job.yaml").write_text(SCENARIO)
    done = dyno("tune", "main-job.yaml", "--no-verify", cwd=folder)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "results" / "local" / "main-job").iterdir()
    return folder, run, done.stdout


def test_tune_measures_every_candidate_and_keeps_its_raw_records(tuned: tuple[Path, Path, str]) -> None:
    _, run, _ = tuned
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    assert {(t["candidate"]["engine"], t["candidate"]["dtype"]) for t in trials} >= {
        ("ctranslate2", "fp32"),
        ("ctranslate2", "int8"),
        ("transformers", "fp32"),
    }
    assert {t["outcome"] for t in trials} == {"ok"}
    for trial in trials:
        records = pd.read_parquet(run / "requests" / f"{trial['trial_id']}.parquet")
        measured = records[~records.is_warmup]
        assert len(measured) == trial["summary"]["metrics"]["latency_p50_ms"]["n"]
        assert (measured.outcome == "ok").all()
        assert trial["quality"]["metrics"]["exact_match_frac"]["value"] > 0.9
        assert trial["quality"]["verdict"] == "Normal"


def test_tune_ends_with_table_recommendation_and_next_command(tuned: tuple[Path, Path, str]) -> None:
    _, run, shown = tuned
    assert all(heading in shown for heading in ("Engine", "Quantization", "P50", "P90", "P99", "Normal"))
    assert (run / "recommendation" / "serving.properties").exists()
    assert "dyno " in shown.strip().splitlines()[-1]


def test_report_and_recommend_work_from_the_files_alone(tuned: tuple[Path, Path, str]) -> None:
    folder, run, _ = tuned
    table = dyno_here(["report", str(run), "--format", "csv"], folder)
    assert table.returncode == 0, table.stderr
    assert "ctranslate2" in table.stdout
    chosen = dyno_here(["recommend", str(run), "--json"], folder)
    assert chosen.returncode == 0, chosen.stderr
    assert json.loads(chosen.stdout)


def test_the_written_file_is_started_and_measured_again(tuned: tuple[Path, Path, str]) -> None:
    folder, run, _ = tuned
    done = dyno("recommend", str(run), "--verify", cwd=folder)
    assert done.returncode in (0, 4), done.stderr
    assert "reproduced" in done.stdout
