"""Recorded pages of real servers are read to the numbers that stand in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.metrics_page import ANY, DJL, LLAMACPP, OURS, SGLANG, VLLM, Words
from harness.measure.engine_metrics.read import read_metrics
from harness.measure.engine_metrics.scrapes import EngineMetrics, Scrape, increase

RECORDED = Path(__file__).parent / "recorded"
PAGES: tuple[tuple[str, Words, dict[str, float]], ...] = (
    (
        "vllm-0.32.0",
        VLLM,
        {"running": 6.0, "waiting": 2.0, "kv_frac": 1.0, "prefix_hits": 0.0, "prefix_queries": 1200.0,
            "preemptions": 49.0, "served": 17.0, "queue_s": 8.478373482001189, "queue_count": 17.0,
            "prefill_s": 2.2540831069982232, "decode_s": 118.52854732800097,
            "cache_block": 32.0, "cache_blocks": 32.0, "cache_tokens": 1024.0},
    ),
    (
        "llamacpp-2026.10.11549",
        LLAMACPP,
        {"running": 1.0, "waiting": 6.0, "batch_size": 1.0, "accepted": 0.0, "drafted": 0.0,
            "prefix_hits": 0.0, "prefix_queries": 1200.0, "prefill_s": 1.10521, "decode_s": 4.86585},
    ),
    (
        "dynamometer-0.1.0",
        OURS,
        {
            "running": 2.0, "waiting": 6.0, "batch_sum": 78.0, "batch_count": 39.0, "served": 76.0, "refused": 0.0,
            "queue_s": 10.965552393999994, "queue_count": 78.0,
        },
    ),
    ("djl-serving-0.36.0", DJL, {"served": 1.0, "queue_s": 0.00199, "queue_count": 1.0}),
)  # fmt: skip


@pytest.mark.parametrize(("name", "words", "values"), PAGES, ids=[page[0] for page in PAGES])
def test_a_recorded_page_is_read(name: str, words: Words, values: dict[str, float]) -> None:
    page = (RECORDED / f"{name}.txt").read_bytes()
    assert read_metrics(page, words) == pytest.approx(values)
    assert read_metrics(page, ANY) == pytest.approx(values)


def test_every_recorded_page_is_in_the_list() -> None:
    assert {path.stem for path in RECORDED.glob("*.txt")} == {page[0] for page in PAGES}


def test_lines_of_one_name_add_up_and_shares_take_the_largest() -> None:
    page = b'sglang:num_running_reqs{r="0"} 3\nsglang:num_running_reqs{r="1"} 4\n'
    page += b'sglang:token_usage{r="0"} 0.25\nsglang:token_usage{r="1"} 0.5\n'
    assert read_metrics(page, SGLANG) == {"running": 7.0, "kv_frac": 0.5}


def test_a_kind_of_answer_that_never_came_counts_as_none() -> None:
    assert read_metrics(b'dyno_requests_total{code="200"} 4\n', OURS) == {"served": 4.0, "refused": 0.0}
    assert read_metrics(b'dyno_requests_total{code="503"} 2\n', OURS) == {"served": 0.0, "refused": 2.0}


def test_prompt_tokens_that_a_cache_had_are_added_where_the_server_leaves_them_out() -> None:
    page = b"llamacpp:prompt_tokens_total 30\nllamacpp:prompt_tokens_cached_total 70\n"
    assert read_metrics(page, LLAMACPP) == {"prefix_hits": 70.0, "prefix_queries": 100.0}
    assert read_metrics(b"llamacpp:prompt_tokens_cached_total 70\n", LLAMACPP) == {"prefix_hits": 70.0}


def test_a_name_that_only_begins_like_another_is_not_it() -> None:
    assert read_metrics(b"dyno_running_total 4\n", OURS) == {}


def test_a_counter_that_fell_began_again() -> None:
    scrapes = [Scrape(at_ns=n, took_ns=1, values={"served": v}) for n, v in enumerate((10.0, 14.0, 3.0, 5.0))]
    assert increase(scrapes, "served") == 9.0
    assert increase(scrapes, "refused") is None
    assert increase(scrapes[:1], "served") is None


def test_a_number_missing_in_one_scrape_is_a_gap_in_its_column() -> None:
    found = EngineMetrics(
        scrapes=(
            Scrape(at_ns=5, took_ns=2_000_000, values={"running": 1.0}),
            Scrape(at_ns=9, took_ns=1_000_000, values={"waiting": 3.0}),
        )
    )
    assert found.columns() == {"t_ns": [5, 9], "took_ms": [2.0, 1.0], "running": [1.0, None], "waiting": [None, 3.0]}
    assert [scrape.at_ns for scrape in found.around(6, 8)] == [5, 9]
    assert found.within(6, 8) == ()


def test_a_number_in_a_label_is_read_and_what_is_none_there_is_left_out() -> None:
    line = 'vllm:cache_config_info{engine="%d",block_size="%s",num_gpu_blocks="%s",enable_prefix_caching="%s"} 1.0\n'
    two = (line % (0, 16, 100, True) + line % (1, 16, 60, True)).encode()
    assert read_metrics(two, VLLM) == {"cache_block": 16.0, "cache_blocks": 160.0}
    assert read_metrics((line % (0, 16, None, True)).encode(), VLLM) == {"cache_block": 16.0}
    assert read_metrics((line % (0, 16, 100, False)).encode(), VLLM) == {"cache_block": 0.0, "cache_blocks": 100.0}
