"""A trial whose inputs share beginnings has the size of its server's prefix cache, or why it is not known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engines.metrics_page import Meaning
from harness.load.schedule.request_times import Schedule
from harness.measure.engine_metrics.prefix_cache import IS_OFF
from harness.measure.engine_metrics.scrapes import EngineMetrics, Scrape
from harness.records import PrefixCache, TrialSummary
from harness.trial.prefix_cache import BY_SLOTS, LRU, SIZE, with_prefix_cache

NOTHING = TrialSummary(metrics={})
TRACE = Schedule(offsets_ns=(0, 1, 2), duration_s=1.0, input_lengths=(1000, 512, 1000), blocks=((0, 1), (2,), (0, 1)))


def _published(**values: float) -> EngineMetrics:
    found: dict[Meaning, float] = {name: value for name, value in values.items()}  # type: ignore[misc]
    return EngineMetrics(scrapes=(Scrape(at_ns=1, took_ns=1, values=found),))


def test_a_trace_with_blocks_has_what_a_cache_so_large_would_have() -> None:
    summary = with_prefix_cache(NOTHING, _published(cache_block=16, cache_blocks=64), TRACE, 512, 1)
    assert summary.prefix_cache == PrefixCache(tokens=1024, block_tokens=16)
    assert summary.metrics[LRU].value == 512 / 2512
    assert (summary.metrics[LRU].n, dict(summary.unavailable)) == (3, {})


def test_answers_without_a_length_take_room_too() -> None:
    published = _published(cache_block=16, cache_blocks=200)
    assert with_prefix_cache(NOTHING, published, TRACE, 512, 1).metrics[LRU].value == 992 / 2512
    assert with_prefix_cache(NOTHING, published, TRACE, 512, 2000).metrics[LRU].value == 688 / 2512
    short = replace(TRACE, output_lengths=(1, 1, 1))
    assert with_prefix_cache(NOTHING, published, short, 512, 2000).metrics[LRU].value == 992 / 2512


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        (_published(cache_block=0), {SIZE: IS_OFF}),
        (EngineMetrics(unavailable="no page"), {SIZE: "no page"}),
        (EngineMetrics(slots=(4, 512)), {LRU: BY_SLOTS}),
    ],
)
def test_what_is_not_known_has_its_reason(metrics: EngineMetrics, why: dict[str, str]) -> None:
    summary = with_prefix_cache(NOTHING, metrics, TRACE, 512, 1)
    assert dict(summary.unavailable) == why
    assert LRU not in summary.metrics


def test_without_blocks_the_size_stands_alone() -> None:
    for schedule in (None, Schedule(offsets_ns=(0,), duration_s=1.0)):
        summary = with_prefix_cache(NOTHING, _published(cache_block=16, cache_tokens=99), schedule, 512, 1)
        assert (summary.prefix_cache, LRU in summary.metrics) == (PrefixCache(tokens=99, block_tokens=16), False)
