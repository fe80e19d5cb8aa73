"""Memory bandwidth is named where a programmed load takes most of a known roof, and where it cannot be known, why."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from engines.metrics_page import Meaning
from harness.measure.engine_metrics.bandwidth import NAME, with_weights_read
from harness.measure.engine_metrics.scrapes import EngineMetrics, Scrape
from harness.measure.machine.memory_roof import MemoryRoof
from harness.records import NamedLimit, RequestRecord, TrialSummary
from tests.harness.measure.records import request

NS = 1_000_000_000
SECONDS = 20
WINDOW = (0, SECONDS * NS)
ROOF = MemoryRoof(read_bps=10e9, threads=2)
EMPTY = TrialSummary(metrics={}, limits=())


def _load(
    step_bytes: float, share: float, users: int, chance: random.Random, tokens: int = 16
) -> tuple[list[RequestRecord], EngineMetrics]:
    """`users` rows in each step, which takes what reading the weights at that share of the roof takes; scrapes see up
    to two users between their requests."""
    step_s = step_bytes / (share * ROOF.read_bps)
    records, each_ms = list[RequestRecord](), 1e3 * tokens * step_s
    for user in range(users):
        sent_ms = -chance.random() * each_ms
        while sent_ms + each_ms < 1e3 * SECONDS:
            records.append(request(len(records), sent_ms, each_ms, user=user, output_tokens=tokens))
            sent_ms += each_ms
    rows = [float(max(1, users - chance.choice((0, 0, 0, 1, 2)))) for _ in range(SECONDS)]
    return records, _scrapes([{"running": row} for row in rows])


def _scrapes(rows: list[dict[Meaning, float]]) -> EngineMetrics:
    return EngineMetrics(
        scrapes=tuple(Scrape(at_ns=round((n + 0.5) * NS), took_ns=0, values=row) for n, row in enumerate(rows))
    )


def test_bandwidth_is_named_near_the_roof_and_nowhere_else() -> None:
    chance, wrong = random.Random(20_261_130), []
    for number in range(80):
        is_wanted = number % 2 == 0
        share = chance.uniform(0.75, 1.0) if is_wanted else chance.uniform(0.02, 0.6)
        step_bytes, users = 10 ** chance.uniform(8, 9.5), chance.choice((1, 4, 8, 16))
        records, metrics = _load(step_bytes, share, users, chance, tokens=chance.randint(2, 16))
        found = with_weights_read(EMPTY, metrics, records, WINDOW, step_bytes, ROOF)
        if bool(found.limits) != is_wanted:
            wrong.append((share, users, found.metrics.get(NAME), found.unavailable))
    assert len(wrong) <= 4, wrong


def test_the_sentence_has_its_evidence() -> None:
    records, metrics = _load(0.5e9, 0.8, 1, random.Random(1))
    found = with_weights_read(EMPTY, metrics, records, WINDOW, 0.5e9, ROOF)
    assert found.metrics[NAME].value == pytest.approx(0.8, rel=0.06)
    (limit,) = found.limits or ()
    assert limit.kind == "memory_bandwidth"
    assert limit.sentence.startswith("memory bandwidth near its measured roof: at least 8")
    assert "(0.5 GB a step, 16" in limit.sentence
    assert limit.sentence.endswith("of the 10 GB/s that 2 threads read here")


def test_other_limits_stay() -> None:
    records, metrics = _load(0.5e9, 0.9, 4, random.Random(1))
    before = replace(EMPTY, limits=(NamedLimit(kind="queue", sentence="q"),))
    found = with_weights_read(before, metrics, records, WINDOW, 0.5e9, ROOF)
    assert [limit.kind for limit in found.limits or ()] == ["queue", "memory_bandwidth"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"share": 1.6}, "cannot be"),
        ({"rows": [{"running": 4.0, "drafted": 30.0 * n} for n in range(SECONDS)]}, "drafts tokens"),
        ({"rows": [{"waiting": 0.0}] * SECONDS}, "how many requests run at once is not published"),
        ({"rows": [{"running": 4.0}] * 4}, "looked at too rarely"),
        ({"output_tokens": None}, "were not counted"),
        ({"prompt_ids": ("a", "b")}, "several inputs"),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_no_limit_and_has_its_reason(change: dict[str, Any], why: str) -> None:
    records, metrics = _load(0.5e9, change.pop("share", 0.9), 4, random.Random(1))
    if "rows" in change:
        metrics = _scrapes(change.pop("rows"))
    records = [replace(record, **change) for record in records]
    found = with_weights_read(EMPTY, metrics, records, WINDOW, 0.5e9, ROOF)
    assert found.limits == ()
    assert NAME not in found.metrics
    assert why in found.unavailable[NAME]
