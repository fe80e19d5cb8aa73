"""The signing proxy: what it passes on is what boto3 itself gets, bit for bit, under the container's own status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import pytest

from engines.api import RunningEngine
from engines.sagemaker.engine import SageMakerEngine
from tests.sagemaker_emulator.container import StubContainer
from tests.sagemaker_emulator.fixtures import spec_for
from tests.sagemaker_emulator.local import Local

pytestmark = pytest.mark.heavy

TEXT = "größer als 東京 🚀 und zurück"


@pytest.fixture
def running(cloud: Local, tmp_path: Path) -> Iterator[RunningEngine]:
    with SageMakerEngine().launch(spec_for(), tmp_path / "work", 30.0) as engine:
        yield engine


def _post(running: RunningEngine, body: object) -> httpx.Response:
    url = running.endpoint.url + "/invocations"
    return httpx.post(url, content=json.dumps(body).encode(), timeout=30, trust_env=False)


def test_an_answer_is_boto3_s(running: RunningEngine) -> None:
    body = json.dumps({"inputs": [TEXT, "b"]}).encode()
    runtime = boto3.client("sagemaker-runtime")
    direct = runtime.invoke_endpoint(
        EndpointName=running.endpoint.model_name, Body=body, ContentType="application/json"
    )
    assert _post(running, {"inputs": [TEXT, "b"]}).content == direct["Body"].read()


def test_a_stream_is_boto3_s_although_frames_split_lines_and_characters(running: RunningEngine) -> None:
    body = {"inputs": TEXT, "stream": True}
    runtime = boto3.client("sagemaker-runtime")
    direct = runtime.invoke_endpoint_with_response_stream(
        EndpointName=running.endpoint.model_name, Body=json.dumps(body).encode(), ContentType="application/json"
    )
    pieces = [event["PayloadPart"]["Bytes"] for event in direct["Body"]]
    assert max(map(len, pieces)) <= 7
    answer = _post(running, body)
    assert answer.content == b"".join(pieces)
    lines = [json.loads(line) for line in answer.content.splitlines()]
    assert [line["token"]["text"] for line in lines[:-1]] == TEXT.split()
    assert lines[-1]["generated_text"] == TEXT


def test_the_container_s_own_status_comes_back(running: RunningEngine, containers: list[StubContainer]) -> None:
    for status in (400, 424, 500, 503):
        containers[-1].statuses.append(status)
        answer = _post(running, {"inputs": "x"})
        assert (answer.status_code, answer.json()["message"]) == (status, "the stub says so")
    assert _post(running, {"inputs": "x"}).status_code == 200


def test_aws_s_own_failures_are_not_retried(running: RunningEngine, cloud: Local) -> None:
    cloud.emulator.faults.runtime_statuses = [500, 503]
    assert [_post(running, {"inputs": "x"}).status_code for _ in range(2)] == [500, 503]
    assert cloud.emulator.calls.count("InvokeEndpoint") == 2


def test_an_error_inside_a_stream_becomes_an_error_line(running: RunningEngine, cloud: Local) -> None:
    cloud.emulator.faults.break_stream_after = 8
    answer = _post(running, {"inputs": "one two three", "stream": True})
    last = json.loads(answer.content.splitlines()[-1])
    assert last["error"].startswith("ModelStreamError")


def test_a_body_above_aws_s_limit_is_refused_here(running: RunningEngine, cloud: Local) -> None:
    calls = len(cloud.emulator.calls)
    assert _post(running, {"inputs": "x" * (6 << 20)}).status_code == 413
    assert len(cloud.emulator.calls) == calls


def test_an_endpoint_that_is_gone_is_a_failure_and_the_proxy_lives_on(running: RunningEngine, cloud: Local) -> None:
    endpoint = cloud.emulator.region("us-east-1").endpoints[running.endpoint.model_name]
    endpoint.status = "Updating"
    answer = _post(running, {"inputs": "x"})
    assert answer.status_code == 400
    assert "not found" in answer.json()["message"]
    endpoint.status = "InService"
    assert _post(running, {"inputs": "x"}).status_code == 200


def test_a_connection_is_kept_and_its_own_time_is_told(running: RunningEngine) -> None:
    with httpx.Client(base_url=running.endpoint.url, trust_env=False) as client:
        for _ in range(20):
            assert client.post("/invocations", json={"inputs": "x"}).status_code == 200
        stats = client.get("/stats").json()
    assert stats["requests"] == 20
    assert stats["reopened"] == 0
    assert 0 < stats["added_p50_us"] <= stats["added_p99_us"]
