"""The scraper of a server's metrics page: asks once a second while a load runs, and never disturbs it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from types import TracebackType

from engines.adapters.api_key import authorization
from engines.api import Endpoint
from engines.metrics_page import Meaning, MetricsPage
from engines.processes.http_look import bounded
from harness.measure.engine_metrics.read import MOST_BYTES, read_metrics
from harness.measure.engine_metrics.scrapes import EngineMetrics, Scrape
from harness.units import NS_PER_S

INTERVAL_S = 1.0
TIMEOUT_S = 1.0
"""A page that takes longer is given up."""
REST = 9
"""A page that answers slowly is left alone nine times as long: it is asked for at most a tenth of the time."""
MOST_PAUSE_S = 30.0
"""The pause after a question without answer doubles up to this."""
NO_PAGE = "this engine publishes no metrics"
NOT_ASKED = "workload.engine_metrics is false"

Fetch = Callable[[str], bytes]


class PageError(Exception):
    """Why there is no page; `is_final` where asking again would not change it."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class Scraper:
    """Scrapes while its context is open, one question at a time; `metrics` are there after it. `fetch` gets a page and
    raises PageError."""

    def __init__(self, endpoint: Endpoint, *, is_wanted: bool = True, fetch: Fetch | None = None) -> None:
        self._page: MetricsPage | None = endpoint.metrics if is_wanted else None
        self._why_not = NO_PAGE if is_wanted else NOT_ASKED
        self._connection = _Connection(authorization(endpoint.api_key_env))
        self._fetch = fetch or self._connection.get
        self._urls = list(self._page.urls) if self._page else []
        self._scrapes: list[Scrape] = []
        self._slots = (0, 0)
        self._missed = self._failures = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-metrics", daemon=True)

    def __enter__(self) -> Scraper:
        if self._page is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._page is not None:
            self._thread.join(2 * TIMEOUT_S)  # the last question, and one that was under way
            self._connection.abandon()

    @property
    def metrics(self) -> EngineMetrics:
        """What came, or why nothing did."""
        scrapes = tuple(self._scrapes)
        why_not = "" if scrapes else self._why_not
        return EngineMetrics(scrapes=scrapes, unavailable=why_not, missed=self._missed, slots=self._slots)

    def _run(self) -> None:
        assert self._page is not None
        pause_s = self._look()
        if self._page.slots:
            with contextlib.suppress(PageError):
                self._slots = slots_of(self._fetch(self._page.slots))
        while pause_s is not None and not self._stop.wait(pause_s):
            pause_s = self._look()
        if pause_s is not None and not self._failures:
            self._look()  # what the counters stand at, at the end

    def _look(self) -> float | None:
        """Ask once; the pause until the next question, None where none would help."""
        begin_ns = time.monotonic_ns()
        try:
            values = self._ask()
        except PageError as error:
            self._why_not = str(error)
            self._missed += 1
            self._failures += 1
            return None if error.is_final and not self._scrapes else pause_s(0.0, self._failures)
        end_ns = time.monotonic_ns()
        self._failures = 0
        self._scrapes.append(Scrape(at_ns=(begin_ns + end_ns) // 2, took_ns=end_ns - begin_ns, values=values))
        return pause_s((end_ns - begin_ns) / NS_PER_S, 0)

    def _ask(self) -> Mapping[Meaning, float]:
        """The numbers of the first address that has any; from then on it alone is asked. Raises PageError."""
        assert self._page is not None
        errors: list[PageError] = []
        for url in self._urls:
            try:
                values = read_metrics(self._fetch(url), self._page.words)
            except PageError as error:
                errors.append(error)
                continue
            if values:
                self._urls = [url]
                return values
            errors.append(PageError(f"{url} answers, but has no metric that is known here", is_final=True))
        raise PageError("; ".join(map(str, errors)), is_final=all(error.is_final for error in errors))


def slots_of(page: bytes) -> tuple[int, int]:
    """The slots that llama.cpp's /props names, and the tokens of each; (0, 0) of another answer."""
    try:
        facts = json.loads(page)
        found = facts["total_slots"], facts["default_generation_settings"]["n_ctx"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0, 0
    return found if all(isinstance(each, int) and each > 0 for each in found) else (0, 0)


def pause_s(took_s: float, failures: int) -> float:
    """Seconds from an answer that took so long, or from so many questions in a row without one, to the next."""
    if failures:
        return min(MOST_PAUSE_S, INTERVAL_S * 2.0 ** min(failures, 10))
    return max(INTERVAL_S - took_s, REST * took_s)


class _Connection:
    """GET of a page within TIMEOUT_S in all; one at a time. `abandon` ends one under way, from another thread."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = {"Accept": "text/plain", "Connection": "close", **headers}
        self._socket: socket.socket | None = None

    def get(self, url: str) -> bytes:
        """The body. Raises PageError."""
        parts = urllib.parse.urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        try:
            with bounded(connection, TIMEOUT_S) as self._socket:
                connection.request("GET", parts.path or "/", headers=self._headers)
                with connection.getresponse() as response:
                    if response.status != 200:
                        raise PageError(f"{url} answers {response.status}", is_final=400 <= response.status < 500)
                    return response.read(MOST_BYTES)
        except TimeoutError:
            raise PageError(f"{url}: no answer within {TIMEOUT_S:g} s") from None
        except ConnectionRefusedError:
            raise PageError(f"{url}: nothing listens there") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise PageError(f"{url}: {type(error).__name__}: {error}") from None
        finally:
            self._socket = None
            connection.close()

    def abandon(self) -> None:
        """End the question that is under way, if any."""
        if (held := self._socket) is not None:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
