"""Limits in words: those of a trial, and one note per kind of a table."""

from __future__ import annotations

from dataclasses import replace

from harness.records import NamedLimit, Trial
from harness.report.wording.limits import NONE_NAMED, limit_notes, limits_text
from tests.harness.choose.runs import candidate, failed, measured_trial, records

QUEUE = NamedLimit(kind="queue", sentence="queue before the engine: 7 waited")
CACHE = NamedLimit(kind="kv_cache", sentence="KV cache full: 3 preemptions")


def _trial(number: int, limits: tuple[NamedLimit, ...] | None) -> Trial:
    trial = measured_trial(number, candidate(), records(5.0))
    assert trial.summary is not None
    return replace(trial, trial_id=f"t{number}", summary=replace(trial.summary, limits=limits))


def test_a_trial_names_its_limits_or_that_none_was_named_or_nothing_where_nobody_looked() -> None:
    assert limits_text((CACHE, QUEUE)) == "KV cache full: 3 preemptions; queue before the engine: 7 waited"
    assert limits_text(()) == NONE_NAMED
    assert limits_text(None) == ""


def test_a_table_has_one_note_for_each_kind_of_limit() -> None:
    trials = [_trial(1, (QUEUE,)), _trial(2, ()), _trial(3, None), _trial(4, (CACHE, QUEUE)), failed(5, candidate())]
    assert list(limit_notes(trials)) == [
        "limited by (t1 and 1 more): queue before the engine: 7 waited",
        "limited by (t4): KV cache full: 3 preemptions",
    ]
