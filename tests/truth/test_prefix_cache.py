"""A server with a programmed prefix cache counts, of the texts of a trace's blocks, the trace's own hit rate, and one
whose cache is bounded the rate that is expected of its size."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from engines.metrics_page import Meaning
from engines.models.tokenizer import FAST_FILE, load_fast
from harness.load.schedule.arrivals import schedule_of
from harness.measure.engine_metrics.scrapes import EngineMetrics, Scrape
from harness.measure.summarize import summarize
from harness.records import PrefixCache
from harness.scenario.load_kinds import TraceLoad
from harness.scenario.resolve import BUNDLED_DECODER, resolve
from harness.scenario.schema import Scenario
from harness.trial.inputs import read_inputs
from harness.trial.prefix_cache import with_prefix_cache
from harness.trial.request_texts import RequestTexts
from tests.harness.load.odd_server import Odd, odd_server
from tests.harness.load.plans import plan_of, run_load
from tests.harness.measure.records import use

TRACE_BLOCK = 64
CACHE_BLOCK = 16
REQUESTS = 80


class CachingServer:
    """Of each prompt the leading blocks of tokens that an earlier one began with are hits. It keeps `most` blocks,
    those used last; of one request, whose answer is a token, the first ones longest."""

    def __init__(self, most: int) -> None:
        self._tokenizer = load_fast(BUNDLED_DECODER / FAST_FILE)
        self._most = most
        self._known: dict[tuple[int, ...], None] = {}
        self._lock = threading.Lock()

    def answer(self, odd: Odd, body: dict[str, Any]) -> None:
        """An answer of OpenAI's completions with the counts."""
        ids = self._tokenizer.encode(body["prompt"]).ids
        whole = [*ids, 0]
        begins = [tuple(whole[:end]) for end in range(CACHE_BLOCK, len(whole) + 1, CACHE_BLOCK)]
        with self._lock:
            most = (len(ids) - 1) // CACHE_BLOCK  # the last token is computed, to go on from
            hits = next((n for n, begin in enumerate(begins[:most]) if begin not in self._known), most)
            for begin in reversed(begins):
                self._known.pop(begin, None)
                self._known[begin] = None
            for begin in list(self._known)[: -self._most]:
                del self._known[begin]
        usage = {
            "prompt_tokens": len(ids),
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": hits * CACHE_BLOCK},
        }
        choice = {"index": 0, "text": "x", "finish_reason": "length"}
        odd.answer(json.dumps({"choices": [choice], "usage": usage}).encode())


def _trace(folder: Path) -> Path:
    """A tree of prefixes: each request begins as a part of an earlier one does, or anew."""
    rng, fresh, rows = random.Random(7), iter(range(10_000)), list[dict[str, Any]]()
    for number in range(REQUESTS):
        base = rng.choice(rows)["hash_ids"] if rows and rng.random() < 0.7 else []
        ids = [*base[: rng.randint(0, len(base))], *(next(fresh) for _ in range(rng.randint(1, 6)))]
        length = len(ids) * TRACE_BLOCK - rng.randint(0, TRACE_BLOCK - 4)
        rows.append({"timestamp": 30 * number, "input_length": length, "output_length": 1, "hash_ids": ids})
    path = folder / "tree.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("most", [1_000_000, 150])
def test_a_prefix_cache_recovers_the_hit_rate_of_the_trace(tmp_path: Path, most: int) -> None:
    load = {"kind": "trace", "path": str(_trace(tmp_path)), "block_tokens": TRACE_BLOCK}
    scenario = Scenario.model_validate({"name": "s", "space": [{"engine": "fake"}], "workload": {"load": load}})
    inputs = read_inputs(resolve(scenario, tmp_path / "s.yaml"))
    assert isinstance(scenario.workload.load, TraceLoad)
    schedule = schedule_of(scenario.workload.load, requests=1, max_duration_s=60, seed=0, trace_path=inputs.trace_path)
    true_frac = schedule.unlimited_hit_frac(TRACE_BLOCK) or 0.0
    assert 0.2 < true_frac < 0.8
    with odd_server(CachingServer(most).answer) as url:
        plan = plan_of(
            url,
            protocol="openai",
            offsets_ns=schedule.offsets_ns,
            window_s=schedule.duration_s,
            input_lengths=schedule.input_lengths,
            output_lengths=schedule.output_lengths,
        )
        plan = RequestTexts(inputs).filled(plan, BUNDLED_DECODER, schedule.blocks)
        result = run_load(plan, tmp_path)
    assert [record.outcome for record in result.records if record.outcome != "ok"] == []
    summary = summarize(
        result.records, result.begin_ns, result.end_ns, use(), load_s=1.0, is_open_loop=True,
        unlimited_hit_frac=true_frac,
    )  # fmt: skip
    published: dict[Meaning, float] = {"cache_block": CACHE_BLOCK, "cache_blocks": most}
    scrapes = (Scrape(at_ns=result.end_ns, took_ns=1, values=published),)
    summary = with_prefix_cache(summary, EngineMetrics(scrapes=scrapes), schedule, TRACE_BLOCK, 1)
    counted, expected = (summary.metrics[name].value for name in ("cached_input_frac", "cached_input_lru_frac"))
    assert counted == pytest.approx(expected, abs=0.02)
    assert summary.metrics["cached_input_unlimited_frac"].value == true_frac
    if most == 150:
        assert expected < true_frac - 0.1
    else:
        assert counted == pytest.approx(true_frac, abs=0.02)
    assert summary.prefix_cache == PrefixCache(tokens=most * CACHE_BLOCK, block_tokens=CACHE_BLOCK)
    assert not {"cached_prompts", "input_lengths"} & set(summary.distrust_kinds)
