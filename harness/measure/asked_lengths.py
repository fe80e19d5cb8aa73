"""Doubts about lengths: answers and inputs that are not as long as the load asked for, and prompts sent again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from harness.measure.statistics.estimators import share
from harness.measure.tokens import is_short
from harness.records import Metric, RequestRecord

SHORT_FRAC = 0.01
"""So many answers may miss the output length asked for before that is a doubt ..."""
VOID_SHORT_FRAC = 0.10
"""... and so many before it is another load, whose numbers mean nothing beside others."""
LONG_FRAC = 1.1
"""An answer this much longer than asked for, and by more than an end token, was not bounded by the length."""
INPUT_FRAC = 0.1
INPUT_TOKENS = 2
"""Inputs are cut by the model's tokenizer where it is known: one that misses by more than a tenth, and two tokens, is
another load."""
MISSED_FRAC = 0.05
"""So many inputs may miss their length before it is doubted."""
REPEATED_FRAC = 0.1
"""A smaller share of prompts that the server had seen before moves no percentile that has an interval."""


def short_answers(chosen: Sequence[RequestRecord]) -> str:
    """'' or how many answers are shorter than the fixed output length asked for, where more than 1 % are."""
    asked = _asked(chosen)
    short = [record for record in asked if is_short(record)]
    if len(short) <= SHORT_FRAC * len(asked):
        return ""
    return (
        f"{len(short)} of {len(asked)} answers are shorter than the output length asked for ({_medians(short)}), so "
        "the load was lighter than asked; they are not in goodput. Does the server know a least number of new tokens?"
    )


def too_short_answers(chosen: Sequence[RequestRecord]) -> str:
    """'' or why the load is void: more than a tenth of its answers are shorter than was asked for."""
    asked = _asked(chosen)
    short = [record for record in asked if is_short(record)]
    if len(short) <= VOID_SHORT_FRAC * len(asked):
        return ""
    return (
        f"{len(short)} of {len(asked)} answers ({len(short) / len(asked):.0%}) are shorter than the output length "
        f"asked for ({_medians(short)}; limit {VOID_SHORT_FRAC:.0%}): this was a lighter load than other candidates "
        "had. Name the server's word for a least number of new tokens by options.server or workload.request, or ask "
        "for no length"
    )


def short_metric(chosen: Sequence[RequestRecord]) -> dict[str, Metric]:
    """short_answers_frac, where answers of a fixed length were asked for and counted."""
    asked = [record for record in _asked(chosen) if record.output_tokens is not None]
    if not asked:
        return {}
    estimator = "share of answers with fewer tokens than the fixed output length asked for"
    return {"short_answers_frac": share([is_short(record) for record in asked], estimator=estimator)}


def long_answers(chosen: Sequence[RequestRecord]) -> str:
    """'' or how many answers are longer than the fixed output length asked for."""
    asked = _asked(chosen)
    long = [
        r for r in asked if (r.output_tokens or 0) > max((r.asked_tokens or 0) * LONG_FRAC, (r.asked_tokens or 0) + 1)
    ]
    if not long:
        return ""
    return (
        f"{len(long)} of {len(asked)} answers are longer than the output length asked for ({_medians(long)}), so the "
        "load was heavier than asked. Does the server obey max_new_tokens?"
    )


def uncounted(chosen: Sequence[RequestRecord]) -> str:
    """'' or that nothing counted the tokens of answers whose length was asked for."""
    asked = _asked(chosen)
    missing = sum(record.output_tokens is None for record in asked)
    if not asked or missing < len(asked):
        return ""
    return (
        f"no answer came with a token count, so whether the {len(asked)} answers have the output length asked for is "
        "not known; name the served model by model:, whose tokenizer then counts them"
    )


def input_lengths(chosen: Sequence[RequestRecord]) -> str:
    """'' or how far the inputs as counted are from the lengths asked for."""
    asked = [record for record in chosen if record.outcome == "ok" and record.asked_input_tokens]
    counted = [record for record in asked if record.input_tokens is not None]
    if not asked:
        return ""
    advice = "they are cut by the tokenizer of model:, one token a word without it: is it the served model's?"
    if not counted:
        return (
            f"no answer came with a count of its input tokens, so the input lengths asked for are not proven; {advice}"
        )
    came, wanted = (np.array([getattr(r, name) for r in counted]) for name in ("input_tokens", "asked_input_tokens"))
    missed = int(np.sum(np.abs(came - wanted) > np.maximum(INPUT_TOKENS, INPUT_FRAC * wanted)))
    if missed <= MISSED_FRAC * len(counted):
        return ""
    return (
        f"{missed} of {len(counted)} inputs miss the length asked for by more than {INPUT_FRAC:.0%}: in "
        f"the median they have {float(np.median(came / wanted)):.0%} of its tokens; {advice}"
    )


def cached_prompts(chosen: Sequence[RequestRecord]) -> str:
    """'' or how much of the prompts the server had in a prefix cache, by its own count."""
    cached = sum(record.cached_tokens or 0 for record in chosen)
    if not cached:
        return ""
    share = cached / max(cached, sum(record.input_tokens or 0 for record in chosen))
    return (
        f"{share:.0%} of the prompts' tokens came from the server's prefix cache ({cached} by its own count), without "
        "the prefill that other candidates are measured with; judge it beside servers with a cache, or switch it off"
    )


def cache_metrics(chosen: Sequence[RequestRecord], unlimited_hit_frac: float | None) -> dict[str, Metric]:
    """cached_input_frac where the server counts what its prefix cache had, and cached_input_unlimited_frac beside it
    where the load states what a cache without bound would have."""
    metrics: dict[str, Metric] = {}
    if unlimited_hit_frac is not None:
        metrics["cached_input_unlimited_frac"] = Metric(
            value=unlimited_hit_frac,
            unit="frac",
            estimator="beginnings of inputs that an earlier request had, over all of the inputs, by the load itself",
            n=len(chosen),
        )
    counted = [record for record in chosen if record.cached_tokens is not None and record.input_tokens]
    if counted:
        total = sum(record.input_tokens or 0 for record in counted)
        metrics["cached_input_frac"] = Metric(
            value=sum(record.cached_tokens or 0 for record in counted) / total,
            unit="frac",
            estimator="input tokens that the server counts as cached, over all input tokens",
            n=len(counted),
        )
    return metrics


def repeated_prompts(records: Sequence[RequestRecord], texts: Mapping[str, str], asked_before: Collection[str]) -> str:
    """'' or how many measured requests carry only prompts that the server had got before, whose beginning its prefix
    cache may hold. `texts`: prompt id -> text; `asked_before`: ids of the prompts asked before the load."""
    seen = {texts.get(prompt_id, prompt_id) for prompt_id in asked_before}
    repeated = total = 0
    different: set[str] = set()
    for record in sorted(records, key=lambda one: one.sent_ns):
        sent = {texts.get(prompt_id, prompt_id) for prompt_id in record.prompt_ids}
        if sent and not record.is_warmup:
            total += 1
            repeated += sent <= seen
            different |= sent
        seen |= sent
    if not total or repeated <= REPEATED_FRAC * total:
        return ""
    return (
        f"{repeated} of {total} measured requests repeated prompts that this server had got before ({len(different)} "
        "different ones, warm-up and quality check included): a prefix cache would serve them without the prefill that "
        "is measured here. Give as many prompts as requests, or switch the server's prefix cache off"
    )


def _asked(chosen: Sequence[RequestRecord]) -> list[RequestRecord]:
    return [record for record in chosen if record.outcome == "ok" and record.asked_tokens is not None]


def _medians(records: Sequence[RequestRecord]) -> str:
    came, wanted = (np.median([getattr(r, name) for r in records]) for name in ("output_tokens", "asked_tokens"))
    return f"median {came:.0f} of {wanted:.0f} tokens"
