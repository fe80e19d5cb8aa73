"""A maximum-rate trial on an engine of known capacity: the rate is found, every probe is kept, why it ended is told."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from harness.records import Candidate, RequestRecord
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.store.writer import RunWriter
from harness.trial.bench import Bench
from harness.trial.progress import Phase
from harness.trial.rate_search import _second_half_frac
from tests.harness.store.trials import a_manifest

SCENARIO = """
name: m
workload:
  load: {kind: max_rate, low_rps: 5, high_rps: 80, arrivals: constant, probes: 4, slo: {latency_p50_ms: {max: 250}}}
  warmup_requests: 2
  max_duration_s: 1.5
quality: {prompts: 2}
space: [{engine: fake}]
objectives: [{metric: max_rate_rps, goal: maximize}]
"""


class _Shown:
    """Progress, kept."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.notes: list[str] = []

    def on_phase(self, phase: Phase) -> None:
        self.phases.append(phase)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.heavy
def test_the_largest_rate_of_a_known_engine_is_bracketed_and_every_probe_kept(tmp_path: Path) -> None:
    """50 ms of service carry 20 requests/s: of 5, 10, 20, 40 the last must break: its queue grows."""
    path = tmp_path / "m.yaml"
    path.write_text(SCENARIO)
    shown = _Shown()
    resolved = resolve(load_scenario(path), path)
    new_run = partial(RunWriter.create, tmp_path / "results", a_manifest())
    with Bench.open(resolved, new_run, progress=shown) as bench:
        trial = bench.run(Candidate(block=0, engine="fake", options={"service_ms": 50}), 1)
        layout = bench.writer.layout
    assert trial.outcome == "ok", trial.reason
    assert trial.summary is not None
    found = trial.summary.metrics["max_rate_rps"]
    assert 5 <= found.value <= 20
    assert found.high is not None
    assert found.low == found.value < found.high <= 40
    assert [probe.rate_rps for probe in trial.probes][:2] == [5, 10]
    assert any(not probe.is_held and probe.reason for probe in trial.probes)
    chosen = max((probe for probe in trial.probes if probe.is_held), key=lambda probe: probe.rate_rps)
    own = pd.read_parquet(layout.requests(trial.trial_id))
    assert len(own[~own.is_warmup]) == pytest.approx(chosen.rate_rps * 1.5, abs=1)
    others = {probe.number for probe in trial.probes} - {chosen.number}
    assert all(layout.requests(f"{trial.trial_id}.probe{number}").exists() for number in others)
    assert any(phase.text.startswith("probe 1, 5 requests/s") for phase in shown.phases)


def _record(intended_s: float, latency_s: float) -> RequestRecord:
    at_ns = round(intended_s * 1e9)
    return RequestRecord(
        seq=0, user=0, prompt_ids=("p",), intended_ns=at_ns, sent_ns=at_ns, first_token_ns=None,
        done_ns=at_ns + round(latency_s * 1e9), outcome="ok", status_code=200, input_tokens=None, output_tokens=None,
        output_ids=(), is_warmup=False,
    )  # fmt: skip


def test_a_growing_queue_is_seen_in_the_second_half_and_a_constant_delay_is_not() -> None:
    steady = [_record(k / 10, 0.5) for k in range(100)]
    growing = [_record(k / 10, k / 10) for k in range(100)]
    assert _second_half_frac(steady, 0, 10.0) == pytest.approx(1.0)
    assert _second_half_frac(growing, 0, 10.0) == pytest.approx(0.5, abs=0.05)
