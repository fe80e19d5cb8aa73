"""The size of a server's prefix cache as its metrics page has it: tokens of a block, and of all blocks."""

from __future__ import annotations

from harness.measure.engine_metrics.scrapes import EngineMetrics
from harness.records import PrefixCache

NOT_NAMED = "the server publishes no size of its prefix cache"
IS_OFF = "the server's prefix cache is switched off"


def prefix_cache(metrics: EngineMetrics) -> PrefixCache | str:
    """The cache that the server published last, or why it is not known."""
    slots, each = metrics.slots
    if slots:
        return PrefixCache(tokens=each, slots=slots)
    if metrics.unavailable:
        return metrics.unavailable
    values = next((scrape.values for scrape in reversed(metrics.scrapes) if "cache_block" in scrape.values), {})
    if (block := values.get("cache_block")) == 0:
        return IS_OFF
    tokens = values.get("cache_tokens") or (block or 0.0) * values.get("cache_blocks", 0.0)
    if not block or tokens < block:
        return NOT_NAMED
    return PrefixCache(tokens=round(tokens), block_tokens=round(block))
