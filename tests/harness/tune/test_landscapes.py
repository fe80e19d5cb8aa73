"""A landscape is recorded whole whatever stops it, in orders that tell candidate from machine, and read as recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.errors import EnvironmentFault
from harness.records import RequestOutcome, RequestRecord
from harness.store.reader import read_run
from harness.store.requests_table import write_table
from harness.units import NS_PER_MS
from tests.bench.landscapes.landscape import FILE, Landscape, Launch, launch_of, read, write
from tests.bench.landscapes.order import ANCHOR, ANCHOR_EVERY, order_of
from tests.bench.landscapes.table import TABLE, good_frac, table
from tests.bench.tuner.laws import LAWS, plan, scenario

ROOT = Path(__file__).parents[3]
SMOOTH = replace(LAWS[0], launch_sd=0.001)
SCENARIO = """
name: fakes
workload: {load: {kind: closed, users: 2}, warmup_requests: 2, requests: 30, max_duration_s: 3}
quality: {prompts: 2}
space: [{engine: fake, workers: [1, 2], options: {service_ms: [5, 10]}}]
objectives: [{metric: latency_p50_ms, goal: minimize}]
constraints: {quality: any}
"""
TRIALS = 10
"""Four candidates twice, and the anchor first and last."""


def test_every_candidate_is_launched_twice_in_two_orders_and_every_tenth_trial_is_the_anchor() -> None:
    candidates = plan().candidates
    order = order_of(candidates, 0)
    passes = [[each.candidate.candidate_id for each in order if each.in_pass == number] for number in (1, 2)]
    assert [sorted(each) for each in passes] == [sorted(each.candidate_id for each in candidates)] * 2
    assert passes[0] != passes[1]
    assert passes[0] != [each.candidate_id for each in candidates]
    assert [each.number for each in order] == list(range(1, len(order) + 1))
    anchors = [each for each in order if each.in_pass == ANCHOR]
    assert all(each.candidate == candidates[0] for each in anchors)
    assert [each.number for each in anchors[:-1]] == list(range(1, len(order), ANCHOR_EVERY))
    assert anchors[-1] is order[-1]
    assert order == order_of(candidates, 0) != order_of(candidates, 1)


def _record(seq: int, began_ms: float, waited_ms: float, *, outcome: RequestOutcome = "ok") -> RequestRecord:
    begin, end = (int(NS_PER_MS * each) for each in (began_ms, began_ms + waited_ms))
    return RequestRecord(
        seq=seq, user=0, prompt_ids=("p",), intended_ns=begin, sent_ns=begin, first_token_ns=None, done_ns=end,
        outcome=outcome, status_code=200, input_tokens=1, output_tokens=1, output_ids=(), is_warmup=seq < 0,
    )  # fmt: skip


def test_a_launch_keeps_when_each_request_began_and_how_long_it_waited(tmp_path: Path) -> None:
    records = [_record(1, 1010.0, 20.0), _record(0, 1000.0, 5.0), _record(2, 1020.0, 7.0, outcome="server_error")]
    write_table(tmp_path / "requests", records)
    trial = SMOOTH.trial(plan().candidates[0], 1, 0)
    found = launch_of(trial, 1, False, tmp_path / "requests")
    assert found.began_ms.tolist() == [0.0, 10.0, 20.0]
    assert found.waited_ms[:2].tolist() == [5.0, 20.0]
    assert np.isnan(found.waited_ms[2])
    assert launch_of(trial, 1, False, tmp_path / "missing").waited_ms.size == 0


def _landscape(count: int = 30) -> Landscape:
    """The smooth law's first candidates, as if they had been recorded."""
    chosen = plan().candidates[:count]
    space = replace(plan(), blocks=(replace(plan().blocks[0], candidates=chosen),), candidates=chosen)
    order = order_of(chosen, 0)
    launches = []
    for each in order:
        trial = SMOOTH.trial(each.candidate, each.number, 0)
        at = f"2026-01-01T00:{each.number // 2:02d}:{30 * (each.number % 2):02d}+00:00"
        seen = SMOOTH.answers(each.candidate, each.number, 0)
        launches.append(
            Launch(
                trial=replace(trial, started_utc=at, notes=("read /a/folder/of/mine.log",), machine="m"),
                in_pass=each.in_pass,
                is_cold=each.number == 1,
                began_ms=seen.began,
                waited_ms=seen.waited,
            )
        )
    machine = {"cpu_model": "A CPU", "cpu_flags": ["avx2"], "cores_usable": 2}
    return Landscape(
        scenario=scenario(), plan=space, machine=machine, commit="abc", planned=len(order), launches=tuple(launches)
    )


def test_what_is_written_is_read_again_to_float32(tmp_path: Path) -> None:
    found = _landscape()
    path = write(tmp_path, found)
    assert path == tmp_path / FILE
    again = read(tmp_path)
    assert (again.scenario, again.plan.candidates, again.planned) == (
        found.scenario,
        found.plan.candidates,
        found.planned,
    )
    assert [each.default for each in again.plan.blocks] == [found.plan.candidates[0]]
    for mine, its in zip(found.launches, again.launches, strict=True):
        assert (mine.in_pass, mine.is_cold, mine.trial) == (its.in_pass, its.is_cold, its.trial)
        np.testing.assert_allclose(its.waited_ms, mine.waited_ms, rtol=1e-6)
        np.testing.assert_allclose(its.began_ms, mine.began_ms, rtol=1e-6)
    assert set(again.pairs) == {each.candidate_id for each in found.plan.candidates}


def test_a_stored_launch_names_no_folder_of_its_machine(tmp_path: Path) -> None:
    trial = replace(_landscape(1).launches[0].trial, converted_dir="/a/b", reason="see /x/y/server.log, 3/4 done")
    plain = launch_of(trial, 1, False, tmp_path / "none").trial
    assert (plain.converted_dir, plain.machine) == ("", "")
    assert (plain.reason, plain.notes) == ("see server.log, 3/4 done", ("read mine.log",))


def test_a_folder_without_a_landscape_and_a_damaged_one_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        read(tmp_path)
    (tmp_path / FILE).write_bytes(b"PAR1 no PAR1")
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        read(tmp_path)


def test_the_table_states_share_spread_drift_and_cpu() -> None:
    found = _landscape()
    text = table(found)
    best = min(SMOOTH.latency_ms(each) for each in found.plan.candidates)
    truly = sum(SMOOTH.latency_ms(each) <= 1.05 * best for each in found.plan.candidates) / found.plan.size
    assert good_frac(found, "latency_p50_ms", is_minimized=True) == pytest.approx(truly)
    assert "A CPU, 2 cores; avx2" in text
    assert "30 candidates, 30 launched twice; 68 launches: 68 ok" in text
    assert "Two launches of fake differ by" in text
    assert "an hour (95 % interval" in text
    assert "Not whole" not in text
    assert "Not whole: 60 of 68" in table(replace(found, launches=found.launches[:8]))
    assert "too few for a trend" in table(replace(found, launches=found.launches[:8]))


def _recorder(folder: Path) -> subprocess.Popen[str]:
    (folder / "fakes.yaml").write_text(SCENARIO)
    argv = [sys.executable, "-m", "tests.bench.landscapes.record", str(folder / "fakes.yaml")]
    argv += ["--out", str(folder / "out"), "--results", str(folder / "runs")]
    return subprocess.Popen(argv, cwd=ROOT, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def _until(recorder: subprocess.Popen[str], trial: int) -> None:
    """Until trial number `trial` is finished."""
    assert recorder.stderr is not None
    for line in recorder.stderr:
        if line.startswith(f"{trial} ("):
            return
    raise AssertionError(f"ended before trial {trial}")


@pytest.mark.heavy
def test_a_recording_that_is_killed_and_interrupted_ends_with_every_trial_once(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path)
    _until(recorder, 2)
    time.sleep(0.3)  # into the third
    os.kill(recorder.pid, signal.SIGKILL)
    recorder.communicate()
    recorder = _recorder(tmp_path)
    _until(recorder, 4)
    recorder.send_signal(signal.SIGINT)
    _, errors = recorder.communicate(timeout=60)
    assert recorder.returncode == 130, errors
    assert "continues with the next trial" in errors
    assert not (tmp_path / "out").exists()
    recorder = _recorder(tmp_path)
    _, errors = recorder.communicate(timeout=180)
    assert recorder.returncode == 0, errors
    assert "4 candidates, 10 trials, 6 to do" in errors
    found = read(tmp_path / "out")
    assert [each.trial.number for each in found.launches] == list(range(1, TRIALS + 1))
    assert Counter(each.in_pass for each in found.launches) == {ANCHOR: 2, 1: 4, 2: 4}
    assert all(each.trial.outcome == "ok" and each.waited_ms.size == 30 for each in found.launches)
    assert sum(each.trial.is_judged for each in found.launches) < TRIALS, "quality is judged once per numeric path"
    assert (tmp_path / "out" / TABLE).read_text().startswith("# The landscape fakes")
    (run,) = (tmp_path / "runs" / "fakes").iterdir()
    assert len(read_run(run).trials) == TRIALS
    recorder = _recorder(tmp_path)
    assert "there already" in recorder.communicate(timeout=60)[1]
    assert recorder.returncode == 2
