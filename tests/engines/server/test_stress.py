"""Crashes, departures, bad requests and a small queue at once: every request is answered, every answer is its own."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.engines.server.running import ask, eventually, fake_server, lines, metric

REQUESTS = 300


@pytest.mark.parametrize("rolling_batch", ["disable", "auto"])
def test_nothing_is_lost_or_mixed_up(tmp_path: Path, rolling_batch: str) -> None:
    keys: dict[str, object] = {
        "option.rolling_batch": rolling_batch,
        "minWorkers": 2,
        "maxWorkers": 2,
        "batch_size": 4 if rolling_batch == "disable" else 1,
        "max_batch_delay": 2,
        "job_queue_size": 12,
        "retry_threshold": 1000,
        "option.law": "lognormal",
        "option.service_ms": 4,
        "option.token_ms": 1,
        "option.error_frac": 0.03,
        "option.crash_after": 60,
    }
    with fake_server(tmp_path, **keys) as (running, client):
        outcomes = Counter[str]()

        def request(number: int) -> None:
            rng = random.Random(number)
            text = " ".join(f"w{number}x{word}" for word in range(rng.randint(1, 12)))
            kind = rng.random()
            try:
                if kind < 0.05:
                    response = ask(client, text, max_new_token=3)
                elif kind < 0.15:
                    timeout = httpx.Timeout(60.0, read=0.003)
                    response = client.post("/invocations", json={"inputs": text}, timeout=timeout)
                elif kind < 0.3:
                    response = client.post("/invocations", json={"inputs": text, "stream": True})
                elif kind < 0.5:
                    response = ask(client, [text, text + " tail"])
                else:
                    response = ask(client, text)
            except httpx.ReadTimeout:
                outcomes["left"] += 1
                return
            is_stream = response.headers["content-type"] == "application/jsonlines"
            # a stream that fails after its first token says so in its last line
            last = lines(response)[-1] if is_stream else {}
            outcomes[str(last.get("code", response.status_code))] += 1
            if response.status_code == 200 and "error" not in last:
                assert text in response.text

        with ThreadPoolExecutor(24) as pool:
            list(pool.map(request, range(REQUESTS)))
        assert outcomes.total() == REQUESTS
        assert set(outcomes) <= {"200", "400", "424", "500", "503", "left"}
        assert outcomes["200"] > 50
        assert outcomes["500"] >= 1, "the programmed crashes did not happen"
        eventually(lambda: {worker["state"] for worker in client.get("/facts").json()["workers"]} == {"ready"})
        assert metric(client, "dyno_queue_length") == 0
        eventually(lambda: ask(client, "still here").status_code == 200)
        assert running.failure() is None
        assert "Traceback" not in client.get("/metrics").text
    log = (tmp_path / "logs" / "server.log").read_text()
    assert "never retrieved" not in log
    assert "internal error" not in log.lower()
