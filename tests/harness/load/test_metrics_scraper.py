"""The scraper asks one question at a time, rests after slow answers, and ends with its load whatever the page does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from engines.api import Endpoint
from engines.metrics_page import OURS, MetricsPage, page_at
from harness.load import metrics_scraper
from harness.load.metrics_scraper import INTERVAL_S, MOST_PAUSE_S, NO_PAGE, NOT_ASKED, PageError, Scraper, pause_s
from tests.harness.load.odd_server import Odd, odd_server
from tests.waiting import eventually

PAGE = b"dyno_running 2.0\ndyno_queue_length 5.0\n"


def _endpoint(*urls: str) -> Endpoint:
    return Endpoint(url="http://127.0.0.1:1", metrics=MetricsPage(urls=urls, words=OURS))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become hundredths."""
    monkeypatch.setattr(metrics_scraper, "INTERVAL_S", 0.01)
    monkeypatch.setattr(metrics_scraper, "TIMEOUT_S", 0.2)


def _scraped(fetch: Callable[[str], bytes], enough: Callable[[], bool], *urls: str) -> Scraper:
    with Scraper(_endpoint(*(urls or ("a",))), fetch=fetch) as scraper:
        eventually(enough)
    return scraper


def test_answers_become_scrapes_on_the_clock_of_the_requests(quick: None) -> None:
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return PAGE

    begin_ns = time.monotonic_ns()
    metrics = _scraped(fetch, lambda: len(asked) >= 3).metrics
    assert metrics.unavailable == ""
    assert len(metrics.scrapes) == len(asked) >= 4  # once more at the end: what the counters stand at
    assert all(dict(scrape.values) == {"running": 2.0, "waiting": 5.0} for scrape in metrics.scrapes)
    times = [scrape.at_ns for scrape in metrics.scrapes]
    assert times == sorted(times)
    assert begin_ns <= times[0] <= times[-1] <= time.monotonic_ns()
    assert set(metrics.columns()) == {"t_ns", "took_ms", "running", "waiting"}


def test_the_pause_grows_with_slow_answers_and_with_silence() -> None:
    assert pause_s(0.01, 0) == pytest.approx(INTERVAL_S - 0.01)
    assert pause_s(0.5, 0) == pytest.approx(4.5)
    pauses = [pause_s(0.0, failures) for failures in range(1, 40)]
    assert pauses[:3] == [2.0, 4.0, 8.0]
    assert max(pauses) == pauses[-1] == MOST_PAUSE_S


def test_a_page_that_nobody_has_is_asked_for_once(quick: None) -> None:
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        raise PageError(f"{url} answers 404", is_final=True)

    metrics = _scraped(fetch, lambda: len(asked) == 2, "a", "b").metrics
    assert asked == ["a", "b"]
    assert (metrics.scrapes, metrics.missed, metrics.unavailable) == ((), 1, "a answers 404; b answers 404")


def test_the_address_that_answers_is_the_only_one_asked_again(quick: None) -> None:
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return PAGE if url == "b" else b"<html>hello</html>"

    _scraped(fetch, lambda: len(asked) >= 5, "a", "b")
    assert asked[:2] == ["a", "b"]
    assert set(asked[2:]) == {"b"}


@pytest.mark.parametrize(
    ("answer", "slots"),
    [
        (b'{"total_slots": 4, "default_generation_settings": {"n_ctx": 512}}', (4, 512)),
        (b'{"total_slots": 4}', (0, 0)),
        (b'{"total_slots": "4", "default_generation_settings": {"n_ctx": 512}}', (0, 0)),
        (b"[1]", (0, 0)),
        (b"<html>", (0, 0)),
        (None, (0, 0)),
    ],
)
def test_slots_are_asked_for_once(quick: None, answer: bytes | None, slots: tuple[int, int]) -> None:
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        if url != "a/props":
            return PAGE
        if answer is None:
            raise PageError("a/props answers 404", is_final=True)
        return answer

    endpoint = Endpoint(url="a", metrics=page_at("a", OURS, slots="/props"))
    with Scraper(endpoint, fetch=fetch) as scraper:
        eventually(lambda: len(asked) >= 4)
    assert asked.count("a/props") == 1
    assert (scraper.metrics.slots, scraper.metrics.missed) == (slots, 0)


def test_an_answer_that_fails_in_between_is_counted_and_the_others_stay(quick: None) -> None:
    answers = iter([PAGE, PAGE])

    def fetch(url: str) -> bytes:
        found = next(answers, None)
        if found is None:
            raise PageError("busy")
        return found

    with Scraper(_endpoint("a"), fetch=fetch) as scraper:
        eventually(lambda: scraper.metrics.missed)
    assert len(scraper.metrics.scrapes) == 2
    assert scraper.metrics.unavailable == ""


def test_without_a_page_or_a_wish_nobody_is_asked() -> None:
    def fetch(url: str) -> bytes:
        raise AssertionError(url)

    for endpoint, is_wanted, why in ((Endpoint(url="x"), True, NO_PAGE), (_endpoint("a"), False, NOT_ASKED)):
        with Scraper(endpoint, is_wanted=is_wanted, fetch=fetch) as scraper:
            pass
        assert scraper.metrics.unavailable == why


def _hang(odd: Odd, body: dict[str, Any]) -> None:
    time.sleep(3)


def _drip(odd: Odd, body: dict[str, Any]) -> None:
    """A body that never ends, a byte at a time."""
    odd.send_response(200)
    odd.end_headers()
    for _ in range(60):
        odd.wfile.write(b"#")
        time.sleep(0.05)


def _drip_headers(odd: Odd, body: dict[str, Any]) -> None:
    for _ in range(60):
        odd.wfile.write(b"H")
        time.sleep(0.05)


def _close(odd: Odd, body: dict[str, Any]) -> None:
    odd.close_connection = True


@pytest.mark.heavy
@pytest.mark.parametrize("behave", [_hang, _drip, _drip_headers, _close])
def test_a_page_that_hangs_drips_or_breaks_ends_with_the_load(
    quick: None, behave: Callable[[Odd, dict[str, Any]], None]
) -> None:
    asked: list[float] = []

    def counted(odd: Odd, body: dict[str, Any]) -> None:
        asked.append(time.monotonic())
        behave(odd, body)

    with odd_server(counted) as url:
        with Scraper(Endpoint(url=url, metrics=page_at(url, OURS))) as scraper:
            eventually(lambda: asked)
            begin = time.monotonic()
        assert time.monotonic() - begin < 2.0
        eventually(lambda: all(thread.name != "engine-metrics" for thread in threading.enumerate()))
    assert scraper.metrics.scrapes == ()
    assert scraper.metrics.unavailable


@pytest.mark.heavy
def test_a_real_page_is_read_over_http_with_the_key(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "s3cret")
    keys: list[str] = []

    def behave(odd: Odd, body: dict[str, Any]) -> None:
        keys.append(odd.headers["Authorization"])
        odd.answer(PAGE)

    with odd_server(behave) as url:
        endpoint = Endpoint(url=url, api_key_env="A_KEY", metrics=page_at(url, OURS))
        with Scraper(endpoint) as scraper:
            eventually(lambda: scraper.metrics.scrapes)
    assert dict(scraper.metrics.scrapes[0].values) == {"running": 2.0, "waiting": 5.0}
    assert set(keys) == {"Bearer s3cret"}
