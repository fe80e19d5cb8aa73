"""A trial scrapes its server's own metrics, keeps them, and names what limited it; a healthy one names nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from harness.measure.machine.machine_class import PART
from harness.measure.machine.memory_roof import MemoryRoof
from harness.records import Candidate, Trial
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.store.reader import read_engine_metrics
from harness.store.writer import RunWriter
from harness.trial import weights_read
from harness.trial.bench import Bench
from harness.trial.progress import Lines
from tests.harness.store.trials import a_manifest

pytestmark = pytest.mark.heavy
SCENARIO = """
name: l
workload:
  load: {kind: closed, users: %d}
  requests: 5000
  max_duration_s: %d
  warmup_requests: 2
  engine_metrics: %s
quality: {prompts: 2}
space: [{engine: fake}]
"""


def _trial(
    tmp_path: Path, users: int, seconds: int, is_scraped: str = "true", job_queue_size: int = 1000
) -> tuple[Trial, Path]:
    path = tmp_path / "l.yaml"
    path.write_text(SCENARIO % (users, seconds, is_scraped))
    new_run = partial(RunWriter.create, tmp_path / "results", a_manifest())
    candidate = Candidate(block=0, engine="fake", job_queue_size=job_queue_size, options={"service_ms": 50})
    with Bench.open(resolve(load_scenario(path), path), new_run, progress=Lines(lambda line: None)) as bench:
        return bench.run(candidate, 1), bench.writer.layout.root


def test_many_users_of_one_worker_wait_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_read, "cache_bytes", lambda: 1000)  # else they may hold the bundled model
    monkeypatch.setattr(weights_read, "memory_roof", lambda: MemoryRoof(read_bps=1e12, threads=2))
    trial, root = _trial(tmp_path, users=8, seconds=8)
    assert trial.summary is not None
    assert trial.summary.limits is not None
    (limit,) = trial.summary.limits
    assert limit.kind == "queue"
    assert "on average" in limit.sentence
    assert 0 < trial.summary.metrics["weights_read_frac"].value < 0.1
    table = read_engine_metrics(root, trial.trial_id)
    assert table is not None
    assert table["waiting"].max() >= 6
    assert table["running"].max() == 1
    assert table["served"].is_monotonic_increasing


def test_a_full_queue_is_named_by_what_it_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_read, "cache_bytes", lambda: 1000)
    monkeypatch.setenv(PART, "1/2")
    trial, root = _trial(tmp_path, users=8, seconds=3, job_queue_size=4)
    assert trial.summary is not None
    (limit,) = trial.summary.limits or ()
    assert limit.kind == "queue"
    assert "were refused" in limit.sentence
    assert "on a part of a machine" in trial.summary.unavailable["weights_read_frac"]
    table = read_engine_metrics(root, trial.trial_id)
    assert table is not None
    assert table["refused"].max() > 0


def test_one_user_of_one_worker_is_limited_by_nothing_that_is_published(tmp_path: Path) -> None:
    trial, _ = _trial(tmp_path, users=1, seconds=6)
    assert trial.summary is not None
    assert [limit for limit in trial.summary.limits or () if limit.kind != "client"] == []
    assert trial.summary.unavailable == {}
    assert "weights_read_frac" not in trial.summary.metrics, "caches may hold the bundled model"


def test_nobody_looks_where_it_is_turned_off(tmp_path: Path) -> None:
    trial, root = _trial(tmp_path, users=1, seconds=1, is_scraped="false")
    assert trial.summary is not None
    assert trial.summary.limits is None
    assert trial.summary.unavailable == {}
    assert read_engine_metrics(root, trial.trial_id) is None
