"""A server's counters become metrics of the window: what they grew by in it, and not what the warm-up counted."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from engines.metrics_page import Meaning
from harness.measure.engine_metrics.counted import counted
from harness.measure.engine_metrics.limits import with_limits
from harness.measure.engine_metrics.scrapes import EngineMetrics, Scrape
from harness.measure.metrics import METRICS
from harness.records import RequestRecord, TrialSummary
from harness.scenario.schema import Scenario
from tests.harness.measure.records import closed_loop, request

NS = 1_000_000_000
WINDOW = (0, 10 * NS)


def _scrapes(values: Mapping[float, Mapping[Meaning, float]]) -> EngineMetrics:
    rows = (Scrape(at_ns=round(at_s * NS), took_ns=0, values=each) for at_s, each in sorted(values.items()))
    return EngineMetrics(scrapes=tuple(rows))


def _records() -> tuple[RequestRecord, ...]:
    return closed_loop(2, rounds=39, latency_ms=250.0)


def test_counters_are_read_around_the_window_without_what_the_warm_up_counted() -> None:
    found = counted(
        _scrapes(
            {
                -5.0: {"prefix_hits": 0, "prefix_queries": 0, "accepted": 0, "drafted": 0, "preemptions": 0},
                -0.5: {"prefix_hits": 900, "prefix_queries": 1000, "accepted": 5, "drafted": 50, "preemptions": 7},
                10.2: {"prefix_hits": 1200, "prefix_queries": 2000, "accepted": 65, "drafted": 150, "preemptions": 11},
            }
        ),
        _records(),
        WINDOW,
    )
    assert found["prefix_hit_frac"].value == pytest.approx(0.3)
    assert found["draft_accepted_frac"].value == pytest.approx(0.6)
    assert found["preemptions_per_request"].value == pytest.approx(4 / found["preemptions_per_request"].n)
    assert all(metric.unit == METRICS[name].unit for name, metric in found.items())


@pytest.mark.parametrize("last", [{"prefix_hits": 30.0, "prefix_queries": 100.0}])
def test_a_server_that_began_again_counts_from_zero(last: Any) -> None:
    found = counted(_scrapes({0.0: {"prefix_hits": 500, "prefix_queries": 900}, 9.0: last}), _records(), WINDOW)
    assert found["prefix_hit_frac"].value == pytest.approx(0.3)


def test_what_is_not_published_or_did_not_count_is_no_metric() -> None:
    same = {"prefix_hits": 5.0, "prefix_queries": 9.0, "running": 1.0}
    for values in ({}, {0.0: same}, {0.0: same, 9.0: same}, {0.0: {"running": 1.0}, 9.0: {"running": 2.0}}):
        assert counted(_scrapes(values), _records(), WINDOW) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_the_hit_rate_of_a_programmed_cache_is_found_within_two_points(seed: int) -> None:
    chance = random.Random(seed)
    wanted = chance.uniform(0.1, 0.9)
    hits = queries = cached = 0
    asked, rows = [], dict[float, Mapping[Meaning, float]]()
    for second in range(-3, 12):
        for _ in range(200):
            tokens = chance.randint(10, 400)
            got = tokens if chance.random() < wanted else 0
            queries, hits = queries + tokens, hits + got
            if second >= 0:
                asked.append((tokens, got))
                cached += got
        rows[second + 0.5] = {"prefix_hits": hits, "prefix_queries": queries}
    records = [request(seq=n, intended_ms=n * 5.0, latency_ms=5.0) for n in range(2000)]
    found = counted(_scrapes(rows), records, (0, 12 * NS))
    assert found["prefix_hit_frac"].value == pytest.approx(cached / sum(tokens for tokens, _ in asked), abs=0.02)


def test_a_summary_has_them_and_a_scenario_may_bound_them() -> None:
    metrics = _scrapes({0.0: {"prefix_hits": 0, "prefix_queries": 0}, 9.0: {"prefix_hits": 1, "prefix_queries": 4}})
    summary = with_limits(TrialSummary(metrics={}), metrics, _records(), WINDOW, "")
    assert summary.metrics["prefix_hit_frac"].value == 0.25
    Scenario.model_validate(
        {
            "name": "cached",
            "space": [{"engine": "fake"}],
            "objectives": [{"metric": "prefix_hit_frac", "goal": "maximize"}],
            "constraints": {"preemptions_per_request": {"max": 0.1}},
        }
    )
