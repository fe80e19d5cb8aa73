"""The model server over HTTP, with the fake engine behind it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from engines.api import QueueOrder
from engines.errors import LaunchFailed, OutOfMemory
from engines.hosted import RunningServer
from engines.processes import supervisor
from engines.server.serve import StateFile
from engines.server.worker_link import WorkersOutOfMemory
from tests.engines.server.running import (
    ask,
    ask_many,
    fake_server,
    frozen_worker,
    is_alive,
    lines,
    metric,
    stopped,
)
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]

Server = tuple[RunningServer, httpx.Client]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that answers at once, shared by tests that leave it as it is."""
    with fake_server(tmp_path_factory.mktemp("quick"), max_request_size=10_000) as server:
        yield server


def test_one_input_gets_an_object_and_a_list_gets_a_list(quick: Server) -> None:
    _, client = quick
    one, many = ask(client, "a b c"), ask(client, ["a b", "c"])
    assert one.json() == {"generated_text": "a b c"}
    assert many.json() == [{"generated_text": "a b"}, {"generated_text": "c"}]
    assert (many.headers["x-dyno-tokens"], many.headers["x-dyno-input-tokens"]) == ("5", "5")
    assert client.post("/predictions/model", json={"inputs": "a"}).json() == {"generated_text": "a"}


def test_details(quick: Server) -> None:
    _, client = quick
    answer = ask(client, "a b", max_new_tokens=2, details=True, return_logprobs=True).json()
    details = answer["details"]
    assert answer["generated_text"] == "a b"
    assert (details["generated_tokens"], details["input_tokens"], details["finish_reason"]) == (2, 3, "length")
    assert len(details["tokens"]) == 2
    assert (details["logprobs"], details["nonfinite"]) == ([-0.125, -0.125], False)


def test_a_stream_is_json_lines_whose_pieces_join_to_the_text(quick: Server) -> None:
    _, client = quick
    response = client.post("/invocations", json={"inputs": "one two three", "stream": True})
    *tokens, last = lines(response)
    assert response.headers["content-type"] == "application/jsonlines"
    assert "".join(token["token"]["text"] for token in tokens) == last["generated_text"] == "one two three"
    assert last["details"] == {"generated_tokens": 4, "input_tokens": 4, "finish_reason": "eos"}


def test_ping_facts_and_metrics(quick: Server) -> None:
    running, client = quick
    assert client.get("/ping").json() == {"status": "Healthy"}
    facts = client.get("/facts").json()
    assert (facts["effective_dtype"], facts["versions"], facts["state"]) == ("fp32", {"fake": "1"}, "ready")
    assert facts["workers"][0]["pid"] in running.pids[1:]
    before = metric(client, 'dyno_requests_total{code="200"}')
    ask(client)
    assert metric(client, 'dyno_requests_total{code="200"}') == before + 1
    assert metric(client, "dyno_queue_length") == metric(client, "dyno_running") == 0
    assert metric(client, "dyno_batch_size_count") >= 1
    assert metric(client, 'dyno_workers{state="ready"}') == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b'{"inputs": []}', "the list is empty"),
        (b'{"inputs": "a", "parameters": {"max_lenght": 3}}', "unknown parameter 'max_lenght'"),
        (b'{"inputs": "a", "parameters": {"num_beams": "two"}}', "expected a whole number, got a string"),
    ],
)
def test_bad_input_is_400_with_a_reason(quick: Server, body: bytes, message: str) -> None:
    response = quick[1].post("/invocations", content=body)
    assert response.status_code == 400
    assert response.json()["type"] == "RequestInvalid"
    assert message in response.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [("GET", "/invocations", 405), ("POST", "/predictions/other", 404), ("GET", "/nothing", 404)],
)
def test_other_paths_and_methods(quick: Server, method: str, path: str, code: int) -> None:
    response = quick[1].request(method, path, json={"inputs": "a"})
    assert response.status_code == response.json()["code"] == code


def test_an_oversized_body_is_413_whether_its_length_is_declared_or_not(quick: Server) -> None:
    _, client = quick
    data = json.dumps({"inputs": "x" * 20_000}).encode()
    declared = client.post("/invocations", content=data)
    chunked = client.post("/invocations", content=iter([data[:9_000], data[9_000:]]))
    assert [declared.status_code, chunked.status_code] == [413, 413]
    assert "max_request_size=10000" in declared.json()["message"]
    assert ask(client).status_code == 200


def test_a_full_queue_is_503_and_nothing_admitted_is_lost(tmp_path: Path) -> None:
    with fake_server(tmp_path, job_queue_size=3) as (running, client), ThreadPoolExecutor(2) as pool:
        with frozen_worker(running, client) as first:
            waiting = [pool.submit(ask, client, f"p{n}") for n in range(2)]
            eventually(lambda: metric(client, "dyno_queue_length") == 2)
            # one in service and two waiting: the third place is refused while every worker is busy
            for inputs in ("one more", ["two", "more"]):
                refused = ask(client, inputs)
                assert refused.status_code == 503
                assert "job_queue_size=3" in refused.json()["message"]
        assert [each.result().status_code for each in (first, *waiting)] == [200] * 3
        assert ask(client, [f"p{n}" for n in range(4)]).status_code == 503, "more than the queue ever holds"
        assert ask(client).status_code == 200


@pytest.mark.parametrize("order", ["djl-fifo", "heap"])
def test_a_list_is_one_job_where_djls_rules_hold(tmp_path: Path, order: QueueOrder) -> None:
    with fake_server(tmp_path, order, job_queue_size=3, batch_size=2) as (running, client):
        with ThreadPoolExecutor(3) as pool, frozen_worker(running, client) as first:
            lists = [[f"{name}{n}" for n in range(5)] for name in "ab"]
            waiting = [pool.submit(ask, client, each) for each in lists]
            eventually(lambda: metric(client, "dyno_queue_length") == 2)
            assert ask(client, "c").status_code == 503, "two of three places, as DJL counts"
        assert first.result().status_code == 200
        texts = [[one["generated_text"] for one in each.result().json()] for each in waiting]
        assert texts == lists
        assert metric(client, "dyno_batch_size_sum") == 3, "requests, of which the second batch had two"


def test_a_batch_forms_and_every_request_gets_its_own_answer(tmp_path: Path) -> None:
    texts = [f"prompt number {n}" for n in range(8)]
    with fake_server(tmp_path, batch_size=8) as (running, client), ThreadPoolExecutor(8) as pool:
        with frozen_worker(running, client) as first:
            waiting = [pool.submit(ask, client, text) for text in texts]
            eventually(lambda: metric(client, "dyno_queue_length") == 8)
        assert [each.result().json()["generated_text"] for each in (first, *waiting)] == ["first", *texts]
        assert metric(client, "dyno_batch_size_sum") == 9
        assert metric(client, "dyno_batch_size_count") == 2


def test_the_model_s_error_is_424_and_the_worker_lives_on(tmp_path: Path) -> None:
    with fake_server(tmp_path, option__error_frac=1, option__seed=1) as (running, client):
        worker = running.pids[1:]
        responses = [ask(client), ask(client, ["a", "b"])]
        assert [response.status_code for response in responses] == [424, 424]
        assert "programmed by option error_frac" in responses[0].json()["message"]
        streamed = client.post("/invocations", json={"inputs": "a", "stream": True})
        assert streamed.status_code == 424
        assert running.pids[1:] == worker


def test_a_crashed_worker_s_requests_are_answered_and_it_is_started_again(tmp_path: Path) -> None:
    keys = {"option__crash_after": 2, "retry_threshold": 1, "option__service_ms": 20}
    with fake_server(tmp_path, **keys) as (running, client):
        codes = [ask(client).status_code for _ in range(3)]
        assert codes == [200, 200, 500]
        eventually(lambda: client.get("/facts").json()["workers"][0]["state"] == "ready")
        assert running.failure() is None
        assert metric(client, "dyno_worker_restarts_total") == 1
        crash = [ask(client) for _ in range(3)][-1]
        assert crash.status_code == 500
        assert "ended by signal 9" in crash.json()["message"]
        eventually(lambda: client.get("/ping").status_code == 503)
        assert "retry_threshold=1" in client.get("/ping").json()["message"]
        assert ask(client).status_code == 503
        assert "crashed 2 times" in str(eventually(running.failure))


def test_workers_that_crash_for_want_of_memory_are_told_from_others(tmp_path: Path) -> None:
    with fake_server(tmp_path, option__crash_after=1, retry_threshold=0) as (running, client):
        assert [ask(client).status_code for _ in range(2)] == [200, 500]
        assert type(eventually(running.failure)) is LaunchFailed
        with (tmp_path / "logs" / "server.log").open("a") as log:
            log.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
        assert isinstance(running.failure(), OutOfMemory)


def test_the_launcher_learns_that_the_kernel_ended_a_worker_for_its_memory(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    StateFile(path).write("failed", error=WorkersOutOfMemory("gone"))
    assert json.loads(path.read_text())["error"] == {"kind": "OutOfMemory", "message": "gone"}


def test_requests_queued_behind_a_crash_are_served_by_the_next_worker(tmp_path: Path) -> None:
    keys = {"option__crash_after": 3, "retry_threshold": 9, "option__service_ms": 30}
    with fake_server(tmp_path, **keys) as (_, client):
        codes = [response.status_code for response in ask_many(client, [f"p{n}" for n in range(8)])]
        assert sorted(codes) == [200] * 6 + [500] * 2


def test_a_killed_idle_worker_is_replaced(tmp_path: Path) -> None:
    with fake_server(tmp_path, maxWorkers=2, minWorkers=2) as (running, client):
        before = set(running.pids)
        os.kill(running.pids[1], signal.SIGKILL)
        eventually(lambda: set(running.pids) - before)
        eventually(lambda: {worker["state"] for worker in client.get("/facts").json()["workers"]} == {"ready"})
        assert ask(client).status_code == 200


def test_a_request_that_overruns_predict_timeout_is_500_and_the_worker_is_replaced(tmp_path: Path) -> None:
    keys = {"option__law": "stall", "option__stall_after_s": 0, "option__stall_ms": 600_000}
    with fake_server(tmp_path, option__predict_timeout=1, **keys) as (running, client):
        before = running.pids
        response = ask(client)
        assert response.status_code == 500
        assert "option.predict_timeout=1 s" in response.json()["message"]
        eventually(lambda: len(running.pids) == 2 and running.pids != before)


def test_temporary_workers_come_with_load_and_end_when_idle(tmp_path: Path) -> None:
    keys = {"minWorkers": 1, "maxWorkers": 2, "max_idle_time": 1, "option__service_ms": 200}
    with fake_server(tmp_path, **keys) as (_, client), ThreadPoolExecutor(12) as pool:

        def are_temporary() -> list[bool]:
            return [worker["is_temporary"] for worker in client.get("/facts").json()["workers"]]

        assert are_temporary() == [False]
        waiting = [pool.submit(ask, client, f"p{n}") for n in range(12)]
        eventually(lambda: are_temporary() == [False, True])
        assert {each.result().status_code for each in waiting} == {200}
        eventually(lambda: are_temporary() == [False])
        assert ask(client).status_code == 200


def test_a_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    with fake_server(tmp_path, option__token_ms=50, option__service_ms=1) as (_, client):
        body = json.dumps({"inputs": " ".join(["word"] * 2_000), "parameters": {"max_new_tokens": 2_000}}).encode()
        head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
            connection.sendall(head + body)
            eventually(lambda: client.get("/facts").json()["workers"][0]["state"] == "busy")
        assert ask(client, "a").status_code == 200
        assert metric(client, 'dyno_requests_total{code="499"}') == 1


def test_a_client_that_leaves_a_stream_frees_its_place(tmp_path: Path) -> None:
    with fake_server(tmp_path, option__token_ms=50, option__service_ms=1) as (_, client):
        body = {
            "inputs": " ".join("word" for _ in range(2_000)),
            "parameters": {"max_new_tokens": 2_000},
            "stream": True,
        }
        with client.stream("POST", "/invocations", json=body) as response:
            next(response.iter_lines())
        assert ask(client, "a").status_code == 200
        eventually(lambda: "499" in client.get("/metrics").text)


def test_rolling_batches_answer_short_requests_before_long_ones(tmp_path: Path) -> None:
    keys = {"option__rolling_batch": "auto", "option__service_ms": 1, "option__token_ms": 10, "option__slots": 4}
    parameters = {"max_new_tokens": 100_000, "min_new_tokens": 100_000}
    with fake_server(tmp_path, **keys) as (_, client):
        endless = {"inputs": "long", "parameters": parameters, "stream": True}
        with client.stream("POST", "/invocations", json=endless) as long:
            tokens = long.iter_lines()
            next(tokens)
            shorts = ask_many(client, [f"short {n}" for n in range(6)])
            assert [short.json()["generated_text"] for short in shorts] == [f"short {n}" for n in range(6)]
            assert metric(client, 'dyno_requests_total{code="200"}') == 6, "the long one goes on"
            assert "token" in json.loads(next(tokens))
        stream = client.post("/invocations", json={"inputs": "x y", "stream": True})
        assert lines(stream)[-1]["generated_text"] == "x y"


def test_rolling_worker_crash_answers_everything_in_flight(tmp_path: Path) -> None:
    keys = {"option__rolling_batch": "auto", "option__token_ms": 100, "option__crash_after": 4, "retry_threshold": 5}
    with fake_server(tmp_path, **keys) as (_, client):
        codes = [response.status_code for response in ask_many(client, [f"a b c {n}" for n in range(5)])]
        assert set(codes) <= {200, 500}
        assert 500 in codes
        eventually(lambda: ask(client).status_code == 200)


def start_cli(tmp_path: Path, *extra: str, **keys: object) -> tuple[subprocess.Popen[str], str]:
    """`python -m engines.server` in the foreground; (process, its address)."""
    values = {"option.entryPoint": "engines.fake", "load_on_devices": -1, "max_batch_delay": 0}
    values |= {name.replace("__", "."): value for name, value in keys.items()}
    path = tmp_path / "serving.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    argv = [sys.executable, "-m", "engines.server", "--properties", str(path), "--port", "0", *extra]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    url = process.stderr.readline().split()[-1]
    eventually(lambda: _status(url) == 200)
    return process, url


def _status(url: str) -> int:
    try:
        return httpx.get(f"{url}/ping", trust_env=False, timeout=5.0).status_code
    except httpx.TransportError:
        return 0


def test_sigterm_finishes_what_is_in_flight_and_takes_nothing_new(tmp_path: Path) -> None:
    process, url = start_cli(tmp_path)
    (worker,) = supervisor.descendants(process.pid)
    assert process.stderr is not None
    with (
        httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client,
        ThreadPoolExecutor(3) as pool,
        stopped(worker),
    ):
        asked = [pool.submit(ask, client, f"p{n}") for n in range(3)]
        eventually(lambda: metric(client, "dyno_queue_length") == 2)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: _status(url) == 0)
        assert not any(each.done() for each in asked)
    assert [each.result().status_code for each in asked] == [200, 200, 200]
    assert process.wait(timeout=30) == 0
    process.stderr.close()


def test_a_second_signal_ends_a_drain_at_once(tmp_path: Path) -> None:
    process, url = start_cli(tmp_path, option__service_ms=600_000)
    failed = threading.Event()

    def request() -> None:
        try:
            if (
                httpx.post(f"{url}/invocations", json={"inputs": "a"}, timeout=600.0, trust_env=False).status_code
                != 200
            ):
                failed.set()
        except httpx.TransportError:
            failed.set()

    thread = threading.Thread(target=request)
    thread.start()
    eventually(lambda: httpx.get(f"{url}/facts", trust_env=False).json()["workers"][0]["state"] == "busy")
    assert process.stderr is not None
    process.send_signal(signal.SIGTERM)
    assert next(line for line in process.stderr if line.startswith("SIGTERM: "))
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    thread.join(timeout=30)
    assert failed.is_set()
    process.stderr.close()


def test_killing_a_front_that_nobody_supervises_ends_its_workers(tmp_path: Path) -> None:
    process, _ = start_cli(tmp_path, maxWorkers=2, minWorkers=2, option__service_ms=600_000)
    workers = supervisor.descendants(process.pid)
    assert len(workers) == 2
    process.kill()
    process.wait(timeout=30)
    eventually(lambda: not any(map(is_alive, workers)), limit_s=5.0)
    assert process.stderr is not None
    process.stderr.close()


def test_a_taken_port_is_one_sentence_and_status_3(tmp_path: Path) -> None:
    (tmp_path / "p.properties").write_text("option.entryPoint=engines.fake\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        argv = [sys.executable, "-m", "engines.server", "--properties", str(tmp_path / "p.properties"), "--port", port]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    assert done.returncode == 3
    assert done.stderr.strip() == (
        f"PortTaken: port {port} on 127.0.0.1 is in use by another process; choose another with --port, "
        "or --port 0 for any"
    )


def test_the_port_is_free_again_after_a_stop(tmp_path: Path) -> None:
    with fake_server(tmp_path) as (running, client):
        assert ask(client).status_code == 200
        port = int(running.endpoint.url.rpartition(":")[2])
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
