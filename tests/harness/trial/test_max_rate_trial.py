"""A maximum-rate trial on an engine of known capacity: the rate is found, every probe is kept, why it ended is told."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from harness.load.plan import LoadPlan
from harness.load.prompts.lengths import SentPrompts
from harness.measure.asked_lengths import repeated_prompts
from harness.records import Candidate, RequestRecord
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.store.writer import RunWriter
from harness.trial.bench import Bench
from harness.trial.inputs import TrialInputs, read_inputs
from harness.trial.progress import Phase
from harness.trial.rate_search import _second_half_frac
from harness.trial.request_texts import RequestTexts
from tests.harness.measure.records import request
from tests.harness.store.trials import a_manifest
from tests.harness.trial.planned import planned

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


def _sent(inputs: TrialInputs, capacity_rps: float, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What each probe of a launch sends to a server of this capacity: the text of every input."""

    def why_broke(plan: LoadPlan) -> str:
        return "too slow" if len(plan.offsets_ns) > capacity_rps * plan.window_s else ""

    plans = planned(inputs, monkeypatch, why_broke)
    texts = [(SentPrompts(plan), range(len(plan.offsets_ns))) for plan in plans]
    return [[each.text for seq in sent for each in text.measured(seq)] for text, sent in texts]


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
@pytest.mark.parametrize("lengths", ["", ", lengths: {input: 30}"])
def test_each_probe_sends_other_prompts_and_the_same_ones_to_every_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: str, arrivals: str
) -> None:
    rows = [json.dumps({"id": f"p{n}", "prompt": f"question {n}"}) for n in range(800)]
    (tmp_path / "p.jsonl").write_text("\n".join(rows))
    load = f"kind: max_rate, low_rps: 5, high_rps: 40, probes: 5, processes: 1, arrivals: {arrivals}"
    path = tmp_path / "m.yaml"
    path.write_text(
        f"name: m\nworkload: {{load: {{{load}, slo: {{latency_p50_ms: {{max: 9}}}}}}, prompts: p.jsonl, "
        f"max_duration_s: 2, inputs_per_request: 2{lengths}}}\nspace: [{{engine: fake}}]\n"
    )
    inputs = read_inputs(resolve(load_scenario(path), path))
    slow, fast = _sent(inputs, 12.0, monkeypatch), _sent(inputs, 30.0, monkeypatch)
    assert len(slow) == len(fast) == 5
    assert len(slow[3]) < len(fast[3])
    for launch in (slow, fast):
        texts = [text for probe in launch for text in probe]
        assert len(set(texts)) == len(texts)
    for one, other in zip(slow, fast, strict=True):
        common = min(len(one), len(other))
        assert one[:common] == other[:common]


def test_texts_of_a_short_corpus_that_come_again_in_a_later_probe_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.txt").write_text(" ".join(f"word{n}" for n in range(100)))
    load = "kind: max_rate, low_rps: 5, high_rps: 40, processes: 1, arrivals: constant, slo: {latency_p50_ms: {max: 9}}"
    path = tmp_path / "m.yaml"
    path.write_text(
        f"name: m\nworkload: {{load: {{{load}}}, corpus: c.txt, lengths: {{input: 5}}, max_duration_s: 2, "
        "warmup_requests: 0}\nspace: [{engine: fake}]\n"
    )
    inputs = read_inputs(resolve(load_scenario(path), path))
    plans = planned(inputs, monkeypatch)
    sent = [each for plan in plans for n in range(len(plan.offsets_ns)) for each in SentPrompts(plan).measured(n)]
    assert [len(plan.offsets_ns) for plan in plans] == [10, 20, 40, 80]
    texts = RequestTexts(inputs)
    assert not texts.as_they_begin(each.prompt_id for each in sent)
    texts.filled(plans[-1], None)
    names = texts.as_they_begin(each.prompt_id for each in sent)
    assert len(set(names.values())) == len({each.text for each in sent}) == 100
    assert len({(names[each.prompt_id], each.text) for each in sent}) == 100
    records = [request(n, 10.0 * n, 5.0, prompt_ids=(each.prompt_id,)) for n, each in enumerate(sent)]
    assert repeated_prompts(records, names, ()).startswith("50 of 150 measured requests repeated prompts")


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
