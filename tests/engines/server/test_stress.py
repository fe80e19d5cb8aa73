"""Crashes, departures, bad requests and a small queue at once: every request is answered, every answer is its own."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.engines.server.running import ask, fake_server, lines, metric
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

REQUESTS = 150
"""In each of two waves, the first with clients that leave."""
WORKERS, CRASH_AFTER = 2, 60
PAUSE_S = 0.01
"""Before a refused request is sent again."""


@pytest.mark.parametrize("rolling_batch", ["disable", "auto"])
def test_nothing_is_lost_or_mixed_up(tmp_path: Path, rolling_batch: str) -> None:
    """Refused requests come again until they are served, so that the second wave alone, which has nobody who leaves, is
    more than two workers serve without a crash: there a worker crashes, however slow the machine."""
    keys: dict[str, object] = {
        "option.rolling_batch": rolling_batch,
        "minWorkers": WORKERS,
        "maxWorkers": WORKERS,
        "batch_size": 4 if rolling_batch == "disable" else 1,
        "max_batch_delay": 2,
        "job_queue_size": 12,
        "retry_threshold": 1000,
        "option.law": "lognormal",
        "option.service_ms": 4,
        "option.token_ms": 1,
        "option.error_frac": 0.03,
        "option.crash_after": CRASH_AFTER,
    }
    with fake_server(tmp_path, **keys) as (running, client):
        with ThreadPoolExecutor(24) as pool:
            first = Counter(pool.map(lambda number: _outcome(client, number, leaves=True), range(REQUESTS)))
            crashes = metric(client, "dyno_worker_restarts_total")
            second = Counter(pool.map(lambda number: _outcome(client, -number, leaves=False), range(REQUESTS)))
        assert set(first) <= {"200", "400", "424", "500", "left"}
        assert set(second) <= {"200", "400", "424", "500"}
        assert REQUESTS - second["400"] > WORKERS * CRASH_AFTER
        assert first["200"] + second["200"] > 100
        eventually(lambda: {worker["state"] for worker in client.get("/facts").json()["workers"]} == {"ready"})
        assert metric(client, "dyno_worker_restarts_total") > crashes, "the programmed crashes did not happen"
        if rolling_batch == "disable":  # a stream that has begun is lost, too
            assert second["500"] <= running.facts.crashes - crashes, "a crash fails one request at most"
        assert metric(client, "dyno_queue_length") == 0
        eventually(lambda: ask(client, "still here").status_code == 200)
        assert running.failure() is None
        assert "Traceback" not in client.get("/metrics").text
    log = (tmp_path / "logs" / "server.log").read_text()
    assert "never retrieved" not in log
    assert "internal error" not in log.lower()


def _outcome(client: httpx.Client, number: int, *, leaves: bool) -> str:
    """The status of request `number` once it is not refused any more, or 'left'; its answer is its own."""
    rng = random.Random(number)
    text = " ".join(f"w{number}x{word}" for word in range(rng.randint(1, 12)))
    kind = rng.random()
    try:
        while (response := _send(client, text, kind, leaves=leaves)).status_code == 503:
            time.sleep(PAUSE_S)
    except httpx.ReadTimeout:
        assert leaves, "not answered"
        return "left"
    is_stream = response.headers["content-type"] == "application/jsonlines"
    # a stream that fails after its first token says so in its last line
    last = lines(response)[-1] if is_stream else {}
    if response.status_code == 200 and "error" not in last:
        assert text in response.text
    return str(last.get("code", response.status_code))


def _send(client: httpx.Client, text: str, kind: float, *, leaves: bool) -> httpx.Response:
    if kind < 0.05:
        return ask(client, text, max_new_token=3)
    if kind < 0.15 and leaves:
        return client.post("/invocations", json={"inputs": text}, timeout=httpx.Timeout(60.0, read=0.003))
    if kind < 0.3:
        return client.post("/invocations", json={"inputs": text, "stream": True})
    if kind < 0.5:
        return ask(client, [text, text + " tail"])
    return ask(client, text)
