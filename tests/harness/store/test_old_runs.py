"""Runs stored before doubts had kinds: every sentence of then is read as what it meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.choose.recommendation import choose
from harness.errors import EnvironmentFault
from harness.records import DoubtKind, Trial
from harness.store.codec import to_json
from harness.store.reader import read_run
from tests.harness.choose.runs import candidate, store, trial

SENTENCES: tuple[tuple[DoubtKind, str], ...] = (
    ("few_samples", "1 answered request: a 95 % interval for p99 needs 368, so latency_p99_ms has no upper bound"),
    (
        "few_samples",
        "90 answered requests: a 95 % interval for p99 needs 368, so latency_p99_ms has no upper bound; 120",
    ),
    ("short_window", "measured for 0.40 s only; under 2 s one hiccup moves every number"),
    ("failed_requests", "3 of 400 requests failed (3 rejected), for instance: HTTP 503: queue full"),
    ("other_cpu", "other processes used 34% of the machine's CPU while measuring (limit 10%)"),
    ("client_cpu", "the load generator took 25% of the machine's CPU from the engine (limit 20%)"),
    ("client_cpu", "the load generator used 75% of its core(s); its own queueing is part of every latency"),
    ("overload", "rate exceeds capacity: in the second half 130 requests/s were due and 100/s answered"),
    ("late_sends", "requests left up to 5.0 ms late (99th percentile) at a median latency of 20.0 ms"),
    ("client_pause", "the load generator paused for 300 ms, 5.0 s into the window; latency_max_ms holds it"),
    ("drift", "not a steady state: median latency 20 ms in the first half, 24 ms in the second"),
    ("short_warmup", "the warm-up was too short: median latency 30 ms in the first twelfth of the window, 20 ms after"),
    ("token_counts", "200 of 400 answers came without a token count; output_tokens_per_s is too low"),
    ("stolen_cpu", "the hypervisor gave 5% of the CPU time to other machines (limit 1%)"),
    ("cpu_quota", "the container's CPU quota held processes back for 0.50 s in 10.0 s"),
    ("swapping", "20 MiB were swapped in or out; the engine may have waited for the disk"),
    ("overheated", "the CPU was slowed down 3 times because it was too hot"),
    ("held_back", "9 of 400 requests were due while max_in_flight = 64 were outstanding, so the load was not the one"),
    ("task_errors", "4 exceptions left the locustfile's tasks, the first one at chat.py:27: KeyError: 'x'"),
    ("cut_off", "users whose task did not end within request_timeout_s = 5 s were cut off; their last requests"),
    ("mixed_requests", "latency and throughput pool 2 kinds of request: a (n=4, median 2 ms), b (n=4, median 3 ms)"),
    ("worker_clock", "load worker b:1: clock offset 9.000 ms, known to 3.000 ms; its sends may be that far"),
    ("unclassified", "the moon was full"),
)
"""As written at commit c252706, cut to their beginnings."""


def _stored_then(one: Trial, *sentences: str) -> dict[str, Any]:
    """The line of trials.jsonl as the old version wrote it."""
    line: dict[str, Any] = {"format": 1, **to_json(one)}
    del line["summary"]["distrust_kinds"]
    line["summary"]["distrust"] = list(sentences)
    return line


def _old_run(folder: Path, *lines: dict[str, Any]) -> Path:
    root = store(folder, [])
    (root / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return root


@pytest.mark.parametrize(("kind", "sentence"), SENTENCES)
def test_a_sentence_of_then_is_read_as_its_kind(tmp_path: Path, kind: DoubtKind, sentence: str) -> None:
    (read,) = read_run(_old_run(tmp_path, _stored_then(trial(1, candidate(), (20, 19, 21)), sentence))).trials
    assert [(doubt.kind, doubt.sentence) for doubt in read.doubts] == [(kind, sentence)]


def test_kinds_that_do_not_fit_their_sentences_are_damage(tmp_path: Path) -> None:
    line = _stored_then(trial(1, candidate(), (20, 19, 21)), "measured for 0.40 s only")
    line["summary"]["distrust_kinds"] = []
    with pytest.raises(EnvironmentFault, match=r"trials.jsonl:1.summary: 1 sentences of distrust, but 0 kinds"):
        read_run(_old_run(tmp_path, line))


def test_an_old_disturbance_still_costs_nothing_and_an_old_doubt_ten_percent(tmp_path: Path) -> None:
    close = trial(1, candidate(batch_size=1), (19.0, 18.9, 19.1))
    sound = trial(2, candidate(batch_size=4), (20.0, 19.9, 20.1))
    sentence = dict(SENTENCES)
    disturbed = _old_run(tmp_path / "a", _stored_then(close, sentence["other_cpu"]), _stored_then(sound))
    assert choose(read_run(disturbed)).trial.candidate == close.candidate
    doubtful = _old_run(tmp_path / "b", _stored_then(close, sentence["short_window"]), _stored_then(sound))
    assert choose(read_run(doubtful)).trial.candidate == sound.candidate


def test_an_old_candidate_that_was_not_launched_is_skipped(tmp_path: Path) -> None:
    line = _stored_then(trial(1, candidate(), (20, 19, 21)))
    line |= {"outcome": "infeasible", "reason": "not launched: trial t0001 ran out of memory", "summary": None}
    (read,) = read_run(_old_run(tmp_path, line)).trials
    assert (read.outcome, read.reason) == ("skipped", "not launched: trial t0001 ran out of memory")
    line["reason"] = "onnxruntime is not installed"
    (read,) = read_run(_old_run(tmp_path, line)).trials
    assert (read.outcome, read.reason) == ("infeasible", "onnxruntime is not installed")


def test_an_old_percentile_without_bounds_is_still_unproven(tmp_path: Path) -> None:
    line = _stored_then(trial(1, candidate(), (20, 19, 21)))
    metrics = line["summary"]["metrics"]
    for metric in metrics.values():
        del metric["method"]
    metrics["latency_p50_ms"] |= {"estimator": "p50 (type 7), 95 % order-statistic interval", "low": None, "high": None}
    (read,) = read_run(_old_run(tmp_path, line)).trials
    assert read.summary is not None
    assert read.summary.metrics["latency_p50_ms"].is_unproven
    assert not read.summary.metrics["latency_p90_ms"].is_unproven


def test_an_old_note_still_says_where_the_converted_model_lay(tmp_path: Path) -> None:
    line = _stored_then(trial(1, candidate(), (20, 19, 21)))
    del line["converted_dir"]
    line["notes"] = ["2 threads", "converted model /home/a b/ct2/1f, ready in 2.1 s (not part of load)"]
    (read,) = read_run(_old_run(tmp_path, line)).trials
    assert read.converted_dir == "/home/a b/ct2/1f"
