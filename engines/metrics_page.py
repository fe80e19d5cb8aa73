"""The names that each server gives its published metrics, and the page that has them as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

Meaning = Literal[
    "running", "waiting", "kv_frac", "batch_size", "batch_sum", "batch_count", "prefix_hits", "prefix_queries",
    "preemptions", "accepted", "drafted", "served", "refused", "queue_s", "queue_count",
    "prefill_s", "decode_s", "cache_block", "cache_blocks", "cache_tokens",
]  # fmt: skip
"""What a published number means, whatever its server calls it. Now: requests that are computed and that wait, the share
of the KV cache in use, requests in a step, tokens of a block of that cache, its blocks, its tokens in all. Since the
server's start: requests in all steps and steps, prompt tokens that a prefix cache had and was asked for, requests put
back for want of KV cache, speculative tokens accepted and drafted, requests answered and refused, seconds that requests
waited and how many did, seconds that they spent on their prompts and, after the first token, on their answers."""

GAUGES: frozenset[Meaning] = frozenset(
    {"running", "waiting", "kv_frac", "batch_size", "cache_block", "cache_blocks", "cache_tokens"}
)
"""Those that hold for the moment; every other one counts up from the server's start."""


LARGEST: frozenset[Meaning] = frozenset({"kv_frac", "cache_block"})
"""Those that are no sum over the parts of a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A server's own name of one metric, as it stands at the beginning of a line. Of several lines those count that
    have `labels`; they are added up, of LARGEST the largest counts. `scale` makes its unit ours; the lines of
    `plus` are added. `label` is the label whose value is the number, '' where it stands behind the name."""

    name: str
    plus: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    label: str = ""


Words = Mapping[Meaning, tuple[Word, ...]]
"""Each meaning's names, the first that a page has counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPage:
    """Prometheus text, in which `words` are looked for; the first of `urls` that answers with any is the page. `slots`
    is the address of llama.cpp's facts on its slots, each of which keeps the tokens of its last request; '' where
    nobody need ask for them."""

    urls: tuple[str, ...]
    words: Words
    slots: str = ""


def page_at(url: str, words: Words, path: str = "/metrics", slots: str = "") -> MetricsPage:
    """The page at that path of a server's address, which has its `slots` at another."""
    return MetricsPage(urls=(f"{url}{path}",), words=words, slots=f"{url}{slots}" if slots else "")


def _names(**names: str | Word) -> Words:
    return {
        cast("Meaning", name): (Word(name=word) if isinstance(word, str) else word,) for name, word in names.items()
    }


OURS = _names(
    running="dyno_running", waiting="dyno_queue_length", batch_sum="dyno_batch_size_sum",
    batch_count="dyno_batch_size_count", served=Word(name="dyno_requests_total", labels={"code": "200"}),
    refused=Word(name="dyno_requests_total", labels={"code": "503"}), queue_s="dyno_queue_seconds_sum",
    queue_count="dyno_queue_seconds_count",
)  # fmt: skip
"""Our own model server (engines/server/metrics.py)."""

VLLM = _names(
    running="vllm:num_requests_running", waiting="vllm:num_requests_waiting", kv_frac="vllm:kv_cache_usage_perc",
    prefix_hits="vllm:prefix_cache_hits_total", prefix_queries="vllm:prefix_cache_queries_total",
    preemptions="vllm:num_preemptions_total", accepted="vllm:spec_decode_num_accepted_tokens_total",
    drafted="vllm:spec_decode_num_draft_tokens_total", served="vllm:request_success_total",
    queue_s="vllm:request_queue_time_seconds_sum", queue_count="vllm:request_queue_time_seconds_count",
    prefill_s="vllm:request_prefill_time_seconds_sum", decode_s="vllm:request_decode_time_seconds_sum",
    cache_block=Word(
        name="vllm:cache_config_info", label="block_size", labels={"enable_prefix_caching": "True"}
    ),
    cache_blocks=Word(name="vllm:cache_config_info", label="num_gpu_blocks"),
    cache_tokens=Word(name="vllm:cache_config_info", label="kv_cache_size_tokens"),
)  # fmt: skip
"""vLLM 0.32.0, run. Its 'perc' is a share from 0 to 1; it publishes no batch size but `running`. The blocks of a prefix
cache that is switched off count as of 0 tokens."""

LLAMACPP = _names(
    running="llamacpp:requests_processing", waiting="llamacpp:requests_deferred",
    batch_size="llamacpp:n_busy_slots_per_decode", accepted="llamacpp:spec_decode_num_accepted_tokens_total",
    drafted="llamacpp:spec_decode_num_draft_tokens_total", prefix_hits="llamacpp:prompt_tokens_cached_total",
    prefix_queries=Word(name="llamacpp:prompt_tokens_total", plus="llamacpp:prompt_tokens_cached_total"),
    prefill_s="llamacpp:prompt_seconds_total", decode_s="llamacpp:tokens_predicted_seconds_total",
)  # fmt: skip
"""llama.cpp's server of xllamacpp 2026.10.11549, run with --metrics. The batch size is its mean since the start;
its prompt tokens leave out those that the cache had."""

DJL = _names(
    served="Response_2XX_total", refused="WlmError_total", queue_s=Word(name="QueueTime_sum", scale=1e-6),
    queue_count="QueueTime_count",
)  # fmt: skip
"""DJL Serving 0.36.0, run elsewhere: its page is /server/metrics, and empty but for SERVING_PROMETHEUS=true. Nothing
there counts what runs or waits now; WlmError is read in its documents (a full job queue), not seen."""

SGLANG = _names(
    running="sglang:num_running_reqs", waiting="sglang:num_queue_reqs", kv_frac="sglang:token_usage",
    prefix_hits="sglang:cached_tokens_total", prefix_queries="sglang:prompt_tokens_total",
    preemptions="sglang:num_retracted_requests_total", served="sglang:num_requests_total",
    queue_s="sglang:queue_time_seconds_sum", queue_count="sglang:queue_time_seconds_count",
    cache_block="sglang:page_size", cache_tokens="sglang:max_total_num_tokens",
)  # fmt: skip
"""SGLang, read, not run. Of speculative decoding it publishes means alone; sglang:num_retracted_reqs is a gauge."""

TGI = _names(
    waiting="tgi_queue_size", batch_size="tgi_batch_current_size", running="tgi_batch_current_size",
    served="tgi_request_success", queue_s="tgi_request_queue_duration_sum",
    queue_count="tgi_request_queue_duration_count",
)  # fmt: skip
"""Text Generation Inference, read, not run."""


def any_of(tables: Iterable[Words]) -> Words:
    """The words of all these servers, for one that is not known; no two call different things by one name."""
    merged: dict[Meaning, tuple[Word, ...]] = {}
    for table in tables:
        for meaning, words in table.items():
            merged[meaning] = (*merged.get(meaning, ()), *words)
    return merged


ANY = any_of((OURS, VLLM, LLAMACPP, DJL, SGLANG, TGI))
"""What an endpoint is asked whose server nobody named."""
