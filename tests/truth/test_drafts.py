"""A server that drafts by n-grams accepts, of inputs cut to a length, what it accepts of the unaltered text.

What the model would write is the second half of each text itself, so that acceptance is a property of the text alone.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.api import Endpoint
from engines.metrics_page import VLLM, page_at
from engines.models.tokenizer import FAST_FILE, load_fast
from harness.load.metrics_scraper import Scraper
from harness.load.plan import LoadPlan
from harness.measure.engine_metrics.counted import counted
from harness.scenario.resolve import BUNDLED_DECODER, resolve
from harness.scenario.schema import Scenario
from harness.trial.inputs import read_inputs
from harness.trial.request_texts import RequestTexts
from tests.harness.load.odd_server import Odd, odd_server
from tests.harness.load.plans import plan_of, run_load

INPUT_TOKENS = 2000
REQUESTS = 24
NGRAM, DRAFT = 2, 3
"""Tokens that are looked up, and that are drafted behind where they stood last."""
PAGE = """\
vllm:spec_decode_num_accepted_tokens_total{{engine="0"}} {accepted}.0
vllm:spec_decode_num_draft_tokens_total{{engine="0"}} {drafted}.0
"""


def drafts(ids: Sequence[int]) -> tuple[int, int]:
    """Tokens accepted and drafted while the second half of `ids` is written, as prompt lookup does it."""
    last, at, half, accepted, drafted = dict[tuple[int, ...], int](), NGRAM, len(ids) // 2, 0, 0
    known = NGRAM
    while at < len(ids):
        for end in range(known, at):  # n-grams that end before the last token, which is looked up itself
            last[tuple(ids[end - NGRAM : end])] = end
        known = max(known, at)
        begin = last.get(tuple(ids[at - NGRAM : at])) if at >= half else None
        if begin is None:
            at += 1
            continue
        draft = ids[begin : min(begin + DRAFT, at)]
        good = next((n for n, pair in enumerate(zip(draft, ids[at:], strict=False)) if pair[0] != pair[1]), None)
        good = min(len(draft), len(ids) - at) if good is None else good
        accepted, drafted = accepted + good, drafted + len(draft)
        at += good + 1
    return accepted, drafted


class Drafting:
    """Answers OpenAI's completions, counts drafts, and publishes what it counted in vLLM's words."""

    def __init__(self) -> None:
        self._tokenizer = load_fast(BUNDLED_DECODER / FAST_FILE)
        self._lock = threading.Lock()
        self.accepted = self.drafted = 0

    def ids(self, text: str) -> list[int]:
        """The text in the model's tokens."""
        return list(self._tokenizer.encode(text).ids)

    def behave(self, odd: Odd, body: dict[str, Any]) -> None:
        """The metrics page, or an answer."""
        if odd.path == "/metrics":
            with self._lock:
                odd.answer(PAGE.format(accepted=self.accepted, drafted=self.drafted).encode())
            return
        ids = self.ids(body["prompt"])
        accepted, drafted = drafts(ids)
        with self._lock:
            self.accepted, self.drafted = self.accepted + accepted, self.drafted + drafted
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        choice = {"index": 0, "text": "x", "finish_reason": "length"}
        odd.answer(json.dumps({"choices": [choice], "usage": usage}).encode())


def _plan(folder: Path) -> LoadPlan:
    workload = {"load": {"kind": "closed", "users": 2}, "lengths": {"input": INPUT_TOKENS}, "requests": REQUESTS}
    scenario = Scenario.model_validate({"name": "s", "space": [{"engine": "fake"}], "workload": workload})
    plan = plan_of("", protocol="openai", users=2, requests=REQUESTS, warmup_requests=0)
    return RequestTexts(read_inputs(resolve(scenario, folder / "s.yaml"))).filled(plan, BUNDLED_DECODER)


def _accepted_frac(ids: Iterable[Sequence[int]]) -> float:
    counts = [drafts(each) for each in ids]
    return sum(accepted for accepted, _ in counts) / sum(drafted for _, drafted in counts)


def test_drafts_of_cut_inputs_are_accepted_as_those_of_the_unaltered_text(tmp_path: Path) -> None:
    plan, server = _plan(tmp_path), Drafting()
    with (
        odd_server(server.behave) as url,
        Scraper(Endpoint(url=url, protocol="openai", metrics=page_at(url, VLLM))) as scraper,
    ):
        result = run_load(replace(plan, endpoint_url=url), tmp_path)
    assert [record.outcome for record in result.records if record.outcome != "ok"] == []
    assert scraper.metrics.scrapes[0].values["drafted"] == 0, "looked at before the first request"
    found = counted(scraper.metrics, result.records, (result.begin_ns, result.end_ns))["draft_accepted_frac"]
    unaltered = [server.ids(plan.corpus[cut[0][0] :][: 12 * INPUT_TOKENS])[:INPUT_TOKENS] for cut in plan.cuts]
    assert found.value == pytest.approx(_accepted_frac(unaltered), rel=0.05)
    assert found.n > 10_000
    repeated = [(ids[:100] * INPUT_TOKENS)[:INPUT_TOKENS] for ids in unaltered]
    assert _accepted_frac(repeated) > 4 * found.value, "what a prompt repeated to its length would flatter it to"
