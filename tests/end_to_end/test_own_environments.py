"""One search over three places: dyno's own environment, one named by its folder, and an engine's installed one.

The environment is the one that `make test` makes for DeepSpeed's conformance.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.commands import ROOT, dyno

CACHE = ROOT / ".dyno-cache"
FOLDER = CACHE / "engines" / "deepspeed"
SCENARIO = f"""
name: own-environments
model: {{path: {ROOT}/scenarios/assets/flan-t5-bench}}
workload:
  prompts: {ROOT}/scenarios/assets/prompts/tasks.jsonl
  parameters: {{max_new_tokens: 8}}
  load: {{kind: closed, users: 1}}
  warmup_requests: 1
  requests: 12
  max_duration_s: 2
quality: {{prompts: 4, max_exact_match_drop: 1.0}}
space:
  - {{engine: deepspeed, python: auto}}
  - {{engine: t5, python: {FOLDER}}}
  - {{engine: t5, batch_size: 8, max_batch_delay_ms: 100}}   # waits for a batch that one user cannot fill
objectives: [{{metric: latency_p50_ms, goal: minimize}}]
search: {{sampler: grid, trials: 3, max_minutes: 5, seed: 0, confirm: {{finalists: 2, repetitions: 1}}}}
recommend: {{container: dynamometer-0.1}}
"""


@pytest.mark.skipif(not (FOLDER / "environment.json").exists(), reason="no environment: dyno engine install deepspeed")
def test_a_search_over_environments_ends_in_a_file_that_starts_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SCENARIO)
    done = dyno("tune", "s.yaml", cwd=tmp_path, extra={"DYNO_CACHE": str(CACHE)})
    assert done.returncode in (0, 4), done.stderr  # 4: the second measurement differed; a busy machine may do that
    (run,) = (tmp_path / "results" / "local" / "own-environments").iterdir()

    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    places = [(t["candidate"]["engine"], t["candidate"]["python"], t["outcome"]) for t in trials]
    first, again = places[:3], places[3:]
    assert sorted(first) == [("deepspeed", "auto", "ok"), ("t5", "", "ok"), ("t5", str(FOLDER), "ok")]
    assert ("t5", str(FOLDER), "ok") in again
    for trial in trials:
        is_elsewhere = trial["candidate"]["python"] != ""
        assert (f"served by the environment {FOLDER}" in trial["notes"]) is is_elsewhere
    served = next(trial for trial in trials if trial["candidate"]["engine"] == "deepspeed")
    stamp = json.loads((FOLDER / "environment.json").read_text())
    assert served["versions"]["deepspeed"] == stamp["packages"]["deepspeed"]

    written = (run / "recommendation" / "serving.properties").read_text()
    assert f"option.pythonExecutable={FOLDER}\n" in written
    verified = json.loads((run / "recommendation" / "verification.json").read_text())["trial"]
    assert verified["outcome"] == "ok"
    assert f"served by the environment {FOLDER}" in verified["notes"]

    page = (run / "report.html").read_text()
    assert f"engine t5 (python: {FOLDER})" in page
    assert f"deepspeed {stamp['packages']['deepspeed']}" in page
    assert "deepspeed fp32, batch 1, 1 worker, own environment" in done.stdout
