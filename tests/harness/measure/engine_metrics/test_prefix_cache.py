"""The size of a prefix cache is that of the server's page, or there is a reason why it is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.metrics_page import SGLANG, VLLM, Meaning
from harness.measure.engine_metrics.prefix_cache import IS_OFF, NOT_NAMED, prefix_cache
from harness.measure.engine_metrics.read import read_metrics
from harness.measure.engine_metrics.scrapes import EngineMetrics, Scrape
from harness.records import PrefixCache

RECORDED = Path(__file__).parent / "recorded"


def _of(*values: dict[Meaning, float], **facts: object) -> EngineMetrics:
    scrapes = tuple(Scrape(at_ns=number, took_ns=1, values=each) for number, each in enumerate(values))
    return EngineMetrics(scrapes=scrapes, **facts)  # type: ignore[arg-type]


def test_a_recorded_page_of_vllm_names_its_blocks() -> None:
    page = read_metrics((RECORDED / "vllm-0.32.0.txt").read_bytes(), VLLM)
    assert prefix_cache(_of(page)) == PrefixCache(tokens=1024, block_tokens=32)


def test_gauges_of_sglang_name_them_too() -> None:
    page = read_metrics(b"sglang:page_size 1.0\nsglang:max_total_num_tokens 471258.0\n", SGLANG)
    assert prefix_cache(_of(page)) == PrefixCache(tokens=471_258, block_tokens=1)


@pytest.mark.parametrize(
    ("metrics", "found"),
    [
        (_of({"cache_block": 16, "cache_blocks": 10}, {"running": 1}), PrefixCache(tokens=160, block_tokens=16)),
        (_of({"running": 1.0}, slots=(4, 512)), PrefixCache(tokens=512, slots=4)),
        (_of({"cache_block": 16}), NOT_NAMED),
        (_of({"running": 1.0}), NOT_NAMED),
        (_of({"cache_block": 0.0, "cache_blocks": 10}), IS_OFF),
        (_of(unavailable="nothing listens there"), "nothing listens there"),
    ],
)
def test_what_is_published_last_counts_or_why_there_is_none(metrics: EngineMetrics, found: object) -> None:
    assert prefix_cache(metrics) == found
