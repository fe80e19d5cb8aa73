"""The stand-in of DJL Serving answers what the real 0.36.0 was recorded to answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engines.processes.server_process import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

HERE = Path(__file__).parent
PER_ANSWER = ("x-request-id",)


def _recorded(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((HERE / "recorded" / f"{name}.json").read_text())
    return found


class Client:
    """One running stand-in."""

    def __init__(self, port: int, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.port, self.folder, self.process = port, folder, process

    def ask(
        self, method: str, path: str, body: str | bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The answer as the recordings hold it; {'refused': ...} when nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30.0)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            found = {key.lower(): value for key, value in answer.getheaders() if key.lower() not in PER_ANSWER}
            text = answer.read().decode().replace(self.folder.parent.as_uri()[len("file://") :], "<folder>")
            return {"status": answer.status, "reason": answer.reason, "headers": found, "body": text}
        except (ConnectionRefusedError, ConnectionResetError):  # it may go while it is asked
            return {"refused": "ConnectionRefusedError"}
        finally:
            connection.close()

    def predict(self, **asked: Any) -> dict[str, Any]:
        return self.ask("POST", "/predictions/model", json.dumps(asked), {"Content-Type": "application/json"})

    def model(self) -> dict[str, Any]:
        described: dict[str, Any] = json.loads(self.ask("GET", "/models/model")["body"])[0]["models"][0]
        return described


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Starts a stand-in on a folder with these properties; all end with the test."""
    with contextlib.ExitStack() as stack:

        def start(
            properties: Mapping[str, Any], config: Mapping[str, str] | None = None, *, has_model: bool = True
        ) -> Client:
            folder = tmp_path / "model"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            port = free_port()
            (folder / "serving.properties").write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
            if has_model:
                shutil.copy(HERE / "stand_in" / "recorded_model.py", folder / "model.py")
            lines = {"inference_address": f"http://127.0.0.1:{port}", **(config or {})}
            (tmp_path / "config.properties").write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
            argv = [
                sys.executable,
                str(HERE / "stand_in" / "serving.py"),
                "-f",
                str(tmp_path / "config.properties"),
            ]
            argv += ["-m", f"model::Python={folder.as_uri()}/"]
            env = {**os.environ, "STAND_IN_MINUTE_S": "1"}
            process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, env=env))
            stack.callback(process.kill)
            return Client(port, folder, process)

        yield start


def _ready(client: Client) -> Client:
    eventually(lambda: "status" in client.ask("GET", "/ping"), "listening")
    return client


def test_every_recorded_exchange(serve: Callable[..., Client]) -> None:
    exchanges = _recorded("http")
    last = next(n for n, each in enumerate(exchanges) if each["name"] == "ping without a model")
    client = _ready(serve({"job_queue_size": 20, "minWorkers": 1, "maxWorkers": 1}))
    for each in exchanges[: last + 1]:
        request = each["request"]
        found = client.ask(request["method"], request["path"], request.get("body"), request.get("headers"))
        expected = {**each["answer"], "headers": dict(each["answer"]["headers"])}
        for name in (*PER_ANSWER, "content-length"):  # of the recording's own folder
            expected["headers"].pop(name, None)
            found["headers"].pop(name, None)
        expected.pop("seconds")
        expected["body"] = expected["body"].replace('"pid": 0', '"pid":0')  # where the recorder put a 0
        assert found == expected, each["name"]


@pytest.mark.parametrize(
    ("properties", "body", "names"),
    [
        ({"option.predict_timeout": 1, "retry_threshold": 5, "maxWorkers": 1}, '{"seconds": 3}',
         ("a request longer than predict_timeout (1 s)", "3 s later")),
        ({}, " " * (21 << 20), ("a body of 21 MiB", "after it")),
    ],
)  # fmt: skip
def test_a_request_that_ends_its_worker(
    properties: dict[str, Any], body: str, names: tuple[str, str], serve: Callable[..., Client]
) -> None:
    recorded = {each["name"]: each["answer"] for each in _recorded("http")}
    client = _ready(serve(properties))
    for name, sent in zip(names, (body, '{"inputs": "a"}'), strict=True):
        found = client.ask("POST", "/predictions/model", sent)
        assert (found["status"], found["body"]) == (recorded[name]["status"], recorded[name]["body"]), name


STARTS = {each["name"]: each for each in _recorded("startup") if each["name"] != "bad number in a server key"}


@pytest.mark.parametrize("name", STARTS)
def test_the_states_of_a_start(name: str, serve: Callable[..., Client]) -> None:
    """Those seen are the recorded ones, in their order; times are the machine's."""
    recorded = STARTS[name]
    properties = {**recorded["properties"]}
    if "option.load_seconds" in properties:
        properties |= {"option.load_seconds": 1} | (
            {"option.model_loading_timeout": 0.2} if "option.model_loading_timeout" in properties else {}
        )
    client = serve(properties, recorded["config"], has_model=name != "no model.py")
    for state in recorded["states"]:
        expected = _state(state)
        if _is_one(expected):
            eventually(lambda expected=expected: _now(client, expected) == expected, f"{name}: {expected}")


def _state(recorded: dict[str, Any]) -> dict[str, Any]:
    if "exited" in recorded:
        return {"exited": recorded["exited"]}
    return {key: _short(value) for key, value in recorded.items() if key != "at"}


def _short(answer: dict[str, Any]) -> Any:
    return answer.get("refused") or (answer["status"], _plain(answer["body"]))


def _plain(body: str) -> Any:
    """A model's description without what the recording's own folder and handler put into it."""
    found = json.loads(body)
    if isinstance(found, dict) and "batch" in found:
        found["batch"] = 0
    return found


def _now(client: Client, expected: dict[str, Any]) -> dict[str, Any]:
    if "exited" in expected:
        return {"exited": client.process.poll()}
    found = {path: _short(client.ask("GET", path)) for path in ("/ping", "/models/model", "/models")}
    found["POST /predictions/model"] = _short(client.predict(inputs="a"))
    return found


def _is_one(state: dict[str, Any]) -> bool:
    """Whether its answers belong to one moment: the model of one recorded start failed between two of them."""
    ping, described = state.get("/ping"), state.get("/models/model")
    if not isinstance(ping, tuple) or not isinstance(described, tuple):
        return True
    return bool(ping[1]["model"]["status"] == described[1][0]["models"][0]["status"])


@pytest.mark.parametrize("name", ["arrivals while busy", "queue full", "queue full, batching"])
def test_a_full_queue_refuses_and_the_newest_is_served_first(
    name: str, serve: Callable[..., Client], tmp_path: Path
) -> None:
    """As recorded, without the recordings' clock."""
    schedule = next(each for each in _recorded("schedules") if each["name"] == name)
    client = _ready(serve(schedule["properties"]))
    release = tmp_path / "release"
    client.predict(inputs="first")  # the recordings' batch 1

    def waiting(count: int) -> bool:
        return bool(client.model()["requestInQueue"] == count)

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(client.predict, until=str(release))]
        eventually(lambda: Path(f"{release}.taken").exists(), "the first to be computed")
        for request in schedule["requests"][1:]:
            jobs.append(pool.submit(client.predict, i=request["i"]))
            if request["status"] == 200:
                count = len(jobs) - 1
                eventually(lambda count=count: waiting(count), "one more waiting")
            else:
                jobs[-1].result()
        release.touch()
        answers = [job.result() for job in jobs]
    for request, answer in zip(schedule["requests"], answers, strict=True):
        assert answer["status"] == request["status"], request
        if request["status"] == 200:
            found = json.loads(answer["body"])
            place = (found["batch"], found["size"], found["position"])
            assert place == (request["batch"], request["size"], request["position"]), (request, found)
        else:
            assert answer["body"] == request["body"]


@pytest.mark.parametrize("number", range(3))
def test_the_states_after_a_worker_has_died(number: int, serve: Callable[..., Client]) -> None:
    recorded = _recorded("worker_death")[number]
    client = _ready(serve(recorded["properties"]))
    died = client.predict(die=True)
    assert {"status": died["status"], "body": died["body"]} == recorded["dying_request"]
    for state in recorded["then"]:
        expected = {key: value for key, value in state.items() if key != "seconds_after_the_death"}
        eventually(lambda expected=expected: _after_death(client) == expected, f"{expected}")


def _after_death(client: Client) -> dict[str, Any]:
    """What the recorder asked, in its order."""
    model, ping = client.model(), client.ask("GET", "/ping")
    predict = client.predict(inputs="a")
    says = "" if predict["status"] == 200 else json.loads(predict["body"])["message"]
    return {
        "model": model["status"],
        "workers": [worker["status"] for group in model["workerGroups"] for worker in group["workers"]],
        "ping": ping["status"], "ping_says": json.loads(ping["body"])["model"]["status"],
        "predict": predict["status"], "predict_says": says,
    }  # fmt: skip
