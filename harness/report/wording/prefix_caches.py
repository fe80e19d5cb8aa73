"""The servers' prefix caches in words: their size, and what they and others would have had of the inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.records import PrefixCache, Trial, TrialSummary

_SHARES = (
    (("cached_input_frac", "prefix_hit_frac"), "it had"),
    (("cached_input_lru_frac",), "one so large would have"),
    (("cached_input_unlimited_frac",), "one without bound would have"),
)


def cache_text(summary: TrialSummary | None) -> str:
    """The cache of one trial; '' where its size is not known."""
    if summary is None or summary.prefix_cache is None:
        return ""
    shares = [
        f"{words} {100 * found.value:.1f} %"
        for names, words in _SHARES
        if (found := next((summary.metrics[name] for name in names if name in summary.metrics), None)) is not None
    ]
    return _size(summary.prefix_cache) + (f"; of the input tokens {', '.join(shares)}" if shares else "")


def _size(cache: PrefixCache) -> str:
    if cache.slots:
        return f"{cache.slots} slots, each with its last request of up to {cache.tokens:,} tokens"
    return f"blocks of {cache.block_tokens} tokens, {cache.tokens:,} tokens in all"


def cache_notes(trials: Sequence[Trial]) -> Iterator[str]:
    """One note for each size of cache, with an example."""
    found: dict[PrefixCache, list[Trial]] = {}
    for trial in trials:
        if trial.summary is not None and trial.summary.prefix_cache is not None:
            found.setdefault(trial.summary.prefix_cache, []).append(trial)
    for first, *others in found.values():
        more = f" and {len(others)} more" if others else ""
        yield f"prefix cache ({first.trial_id}{more}): {cache_text(first.summary)}"
