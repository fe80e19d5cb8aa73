"""Ctrl-C, kill -9, resume: nothing stays behind, at most the trial in flight is lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.commands import alive, descendants, dyno, start_dyno
from tests.waiting import eventually

SCENARIO = """
name: hygiene
workload:
  load: {kind: closed, users: 2}
  warmup_requests: 2
  requests: 10
  max_duration_s: 4
quality: {prompts: 2}
space:
  - {engine: fake, batch_size: [1, 2, 4], workers: [1, 2], options: {law: constant, service_ms: 60}}
objectives: [{metric: latency_p50_ms, goal: minimize}]
search: {sampler: grid, trials: 3, max_minutes: 10, seed: 0, confirm: {finalists: 1, repetitions: 0}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hygiene.yaml").write_text(SCENARIO)
    return tmp_path


def _trials(folder: Path) -> list[dict[str, str]]:
    files = list((folder / "results" / "local" / "hygiene").glob("*/trials.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().split("\n")[:-1]]


def _naming(folder: Path) -> list[list[str]]:
    """Command lines of other processes that name the folder: what descends from dyno no longer, too."""
    found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [line for line in found if str(folder) in " ".join(line)]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_tune_leaves_nothing_behind_and_resumes(folder: Path, sent: signal.Signals) -> None:
    running = start_dyno(["tune", "hygiene.yaml"], folder, folder / "stderr.txt")
    try:
        eventually(lambda: len(_trials(folder)) >= 1, "one finished trial", 120)
        eventually(lambda: len(descendants(running.pid)) >= 2, "an engine running", 60)
        started = descendants(running.pid)
        os.kill(running.pid, sent)
        code = running.wait(timeout=60)
    finally:
        running.kill()
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 130, signal.SIGKILL: -9}[sent]
    eventually(lambda: not alive(started), f"everything dyno started is gone: {alive(started)}", 5)
    eventually(lambda: not _naming(folder), f"nothing else is at work for it: {_naming(folder)}", 5)

    before = [t["trial_id"] for t in _trials(folder) if t["outcome"] == "ok"]
    again = dyno("tune", "hygiene.yaml", "--no-verify", cwd=folder)
    assert again.returncode == 0, again.stderr
    finished = [t["trial_id"] for t in _trials(folder) if t["outcome"] == "ok"]
    assert finished[: len(before)] == before
    assert len(finished) == 3
    lost = [t["outcome"] for t in _trials(folder) if t["outcome"] != "ok"]
    assert lost in ([], [] if sent == signal.SIGKILL else ["interrupted"])
    assert len(list((folder / "results" / "local" / "hygiene").iterdir())) == 1
