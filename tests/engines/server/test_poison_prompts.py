"""A prompt that ends its worker, by a crash or by never being answered, harms nobody who was in flight with it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from engines.hosted import RunningServer
from tests.engines.server.running import ask, fake_server, lines, metric, stopped
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

GOOD = ["good one", "good two", "good three"]
KEYS: dict[str, object] = {
    "batch_size": 1,
    "option.crash_on": "poison",
    "option.hang_on": "stuck",
    "option.predict_timeout": 1,
    "retry_threshold": 100,
}
STATIC = {**KEYS, "batch_size": 4, "max_batch_delay": 60_000}
ROLLING = {**KEYS, "option.rolling_batch": "auto"}

Server = tuple[RunningServer, httpx.Client]


@pytest.fixture(scope="module", params=["static", "rolling"])
def serving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = STATIC if request.param == "static" else ROLLING
    with fake_server(tmp_path_factory.mktemp(request.param), **keys) as server:
        yield server


def at_once(server: Server, texts: list[str]) -> list[httpx.Response]:
    """The answers to `texts`, which are all in flight together before the worker does anything: it waits for a whole
    batch, or is stopped until it has them all."""
    running, client = server
    eventually(lambda: {worker["state"] for worker in client.get("/facts").json()["workers"]} == {"ready"})
    before = metric(client, "dyno_queue_seconds_count")
    with ThreadPoolExecutor(len(texts)) as pool:
        with stopped(running.pids[1]):
            answers = [pool.submit(ask, client, text) for text in texts]
            eventually(lambda: metric(client, "dyno_queue_seconds_count") - before == len(texts))
        return [answer.result() for answer in answers]


@pytest.mark.parametrize(("word", "reason"), [("poison", "ended by signal 9"), ("stuck", "option.predict_timeout=1 s")])
def test_only_the_prompt_at_fault_fails(serving: Server, word: str, reason: str) -> None:
    at_fault, *others = at_once(serving, [f"a {word} b", *GOOD])
    assert [answer.status_code for answer in others] == [200] * 3
    assert [answer.json()["generated_text"] for answer in others] == GOOD
    assert (at_fault.status_code, at_fault.json()["type"]) == (500, "WorkerCrashed")
    assert reason in at_fault.json()["message"]
    assert "alone" in at_fault.json()["message"]


def test_two_at_fault_in_one_batch_are_both_found(serving: Server) -> None:
    codes = [answer.status_code for answer in at_once(serving, ["poison 1", GOOD[0], "poison 2", GOOD[1]])]
    assert codes == [500, 200, 500, 200]


def test_crashes_are_counted_for_the_trial(serving: Server) -> None:
    running, _ = serving
    at_once(serving, [*GOOD, "good four"])  # a whole batch, by a worker that was started after every crash before
    before = running.facts.crashes
    at_once(serving, ["poison", *GOOD])
    eventually(lambda: running.facts.crashes == before + 2)


def test_a_stream_that_has_begun_is_not_asked_again(tmp_path: Path) -> None:
    endless = {"max_new_tokens": 100_000, "min_new_tokens": 100_000}
    with fake_server(tmp_path, **{**ROLLING, "option.token_ms": 5}) as (_, client), ThreadPoolExecutor(1) as pool:
        body = {"inputs": "long", "parameters": endless, "stream": True}
        with client.stream("POST", "/invocations", json=body) as stream:
            tokens = stream.iter_lines()
            next(tokens)
            poison = pool.submit(ask, client, "poison")
            last = list(tokens)[-1]
        assert '"code": 500' in last
        assert "had begun to stream; send it again" in last
        assert poison.result().status_code == 500


def test_a_model_that_may_not_crash_again_answers_every_batch_mate_with_the_reason(tmp_path: Path) -> None:
    with fake_server(tmp_path, **{**STATIC, "retry_threshold": 0}) as server:
        for answer in at_once(server, ["poison", *GOOD]):
            assert answer.status_code == 503
            assert "the worker ended by signal 9; workers crashed 1 times" in answer.json()["message"]


def test_a_waiting_stream_is_answered_when_the_model_fails(tmp_path: Path) -> None:
    with fake_server(tmp_path, **{**KEYS, "retry_threshold": 0}) as (running, client), ThreadPoolExecutor(2) as pool:
        with stopped(running.pids[1]):
            crash = pool.submit(ask, client, "poison")
            eventually(lambda: metric(client, "dyno_batch_size_count") == 1)
            body = {"inputs": "waits", "stream": True}
            stream = pool.submit(client.post, "/invocations", json=body)
            eventually(lambda: metric(client, "dyno_queue_length") == 1)
        assert crash.result().status_code == 500
        assert stream.result().status_code == 503
        assert lines(stream.result())[0]["type"] == "NoWorkers"


def test_a_crash_and_finding_its_cause_count_as_one(tmp_path: Path) -> None:
    with fake_server(tmp_path, **{**STATIC, "retry_threshold": 2}) as server:
        running, client = server
        for _ in range(2):
            assert [answer.status_code for answer in at_once(server, ["poison", *GOOD])] == [500, 200, 200, 200]
        eventually(lambda: running.facts.crashes == 4)
        assert running.failure() is None
        assert 503 in {answer.status_code for answer in at_once(server, ["poison", *GOOD])}
        assert "workers crashed 5 times and retry_threshold=2" in client.get("/ping").json()["message"]
