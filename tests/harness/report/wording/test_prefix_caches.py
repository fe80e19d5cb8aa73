"""Prefix caches in words: their size beside the shares of the inputs that they and others have."""

from __future__ import annotations

from dataclasses import replace

from harness.records import Metric, PrefixCache, Trial
from harness.report.wording.prefix_caches import cache_notes, cache_text
from tests.harness.choose.runs import candidate, failed, measured_trial, records

BLOCKS = PrefixCache(tokens=20_480, block_tokens=16)


def _trial(number: int, cache: PrefixCache | None, **shares: float) -> Trial:
    trial = measured_trial(number, candidate(), records(5.0))
    assert trial.summary is not None
    found = {name: Metric(value=value, unit="frac", estimator="", n=9) for name, value in shares.items()}
    summary = replace(trial.summary, prefix_cache=cache, metrics={**trial.summary.metrics, **found})
    return replace(trial, trial_id=f"t{number}", summary=summary)


def test_a_cache_is_shown_beside_the_shares_that_are_known() -> None:
    shares = {"cached_input_frac": 0.301, "cached_input_lru_frac": 0.31, "cached_input_unlimited_frac": 0.45}
    assert cache_text(_trial(1, BLOCKS, **shares).summary) == (
        "blocks of 16 tokens, 20,480 tokens in all; of the input tokens it had 30.1 %, one so large would have 31.0 %, "
        "one without bound would have 45.0 %"
    )
    slots = PrefixCache(tokens=2048, slots=4)
    assert cache_text(_trial(1, slots, prefix_hit_frac=0.5).summary) == (
        "4 slots, each with its last request of up to 2,048 tokens; of the input tokens it had 50.0 %"
    )
    assert cache_text(_trial(1, None, **shares).summary) == ""
    assert cache_text(failed(5, candidate()).summary) == ""


def test_a_table_has_one_note_for_each_size_of_cache() -> None:
    other = PrefixCache(tokens=160, block_tokens=16)
    trials = [_trial(1, BLOCKS), _trial(2, None), _trial(3, other), _trial(4, BLOCKS), failed(5, candidate())]
    assert list(cache_notes(trials)) == [
        "prefix cache (t1 and 1 more): blocks of 16 tokens, 20,480 tokens in all",
        "prefix cache (t3): blocks of 16 tokens, 160 tokens in all",
    ]
