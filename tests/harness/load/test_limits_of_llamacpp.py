"""The real llama.cpp with one slot and 8 users: requests wait before it, by its own metrics."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from engines.api import EngineSpec
from engines.launching import load_engine
from harness.load.metrics_scraper import Scraper
from harness.measure.engine_metrics.limits import limits_of
from harness.records import Prompt
from tests.harness.load.plans import plan_of, run_load

MODEL = Path(__file__).parents[3] / "scenarios" / "assets" / "llama-bench"


@pytest.mark.heavy
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed: pip install '.[llamacpp]'")
def test_users_of_one_slot_wait_before_it(tmp_path: Path) -> None:
    spec = EngineSpec(engine="llamacpp", model_dir=MODEL, dtype="fp32", threads=1)
    with load_engine("llamacpp", None).launch(spec, tmp_path, 120.0) as running:
        endpoint = running.endpoint
        plan = plan_of(
            endpoint.url,
            protocol=endpoint.protocol,
            model_name=endpoint.model_name,
            dialect=endpoint.dialect,
            parameters={"max_new_tokens": 32, "min_new_tokens": 32},
            users=8,
            requests=5000,
            max_duration_s=8.0,
            request_timeout_s=60.0,
        )
        with Scraper(endpoint) as scraper:
            result = run_load(plan, tmp_path)
    found = limits_of(scraper.metrics, result.records, (result.begin_ns, result.end_ns))
    assert [limit.kind for limit in found] == ["queue"]
    assert " and 1 ran, so waiting was " in found[0].sentence
    values = scraper.metrics.scrapes[-1].values
    assert values["prefix_queries"] > 0  # prompt tokens, by its own count


@pytest.mark.heavy
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed: pip install '.[llamacpp]'")
@pytest.mark.parametrize(("words", "tokens", "wanted"), [(50, 2, ["prefill"]), (4, 48, [])])
def test_long_prompts_with_short_answers_are_prefill_bound(
    tmp_path: Path, words: int, tokens: int, wanted: list[str]
) -> None:
    spec = EngineSpec(engine="llamacpp", model_dir=MODEL, dtype="fp32", threads=1)
    prompts = tuple(
        Prompt(prompt_id=f"p{n}", task="t", text=" ".join(f"word{n}x{at}" for at in range(words)), reference=None)
        for n in range(50)
    )
    with load_engine("llamacpp", None).launch(spec, tmp_path, 120.0) as running:
        endpoint = running.endpoint
        plan = plan_of(
            endpoint.url,
            protocol=endpoint.protocol,
            model_name=endpoint.model_name,
            dialect=endpoint.dialect,
            prompts=prompts,
            parameters={"max_new_tokens": tokens, "min_new_tokens": tokens},
            users=1,
            requests=5000,
            max_duration_s=8.0,
            request_timeout_s=60.0,
        )
        with Scraper(endpoint) as scraper:
            result = run_load(plan, tmp_path)
    found = limits_of(scraper.metrics, result.records, (result.begin_ns, result.end_ns))
    assert [limit.kind for limit in found] == wanted
