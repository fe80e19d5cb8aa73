"""Whatever goes wrong in AWS: one reason, the right error, and nothing left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import httpx
import pytest

from engines.api import RunningEngine
from engines.errors import EngineError, LaunchFailed, NotReady, OutOfMemory, SpecInvalid, Unavailable
from engines.sagemaker import endpoint as endpoint_module
from engines.sagemaker.aws import Aws
from engines.sagemaker.engine import SageMakerEngine
from engines.sagemaker.journal import journals
from engines.sagemaker.removal import delete_prefix
from engines.sagemaker.weights import release_weights
from tests.sagemaker_emulator.container import StubContainer
from tests.sagemaker_emulator.fixtures import is_clean, spec_for
from tests.sagemaker_emulator.local import SECRET, Local
from tests.waiting import eventually

pytestmark = pytest.mark.heavy


@contextmanager
def launched(tmp_path: Path, **options: object) -> Iterator[RunningEngine]:
    with SageMakerEngine().launch(spec_for(**options), tmp_path / "work", 30.0) as running:  # type: ignore[arg-type]
        yield running


def fails(cloud: Local, tmp_path: Path, **options: object) -> EngineError:
    """The error a launch ends in; proves that it leaves nothing."""
    with pytest.raises(EngineError) as caught, launched(tmp_path, **options):
        raise AssertionError("it was launched")
    release_weights()
    assert is_clean(cloud), cloud.objects()
    assert journals() == ()
    assert "\n" not in str(caught.value).partition(" ends:\n")[0], "one sentence, then perhaps the container's log"
    return caught.value


def answers(running: RunningEngine) -> httpx.Response:
    return httpx.post(running.endpoint.url + "/invocations", json={"inputs": "one two"}, timeout=30, trust_env=False)


def test_an_endpoint_answers_and_is_gone_afterwards(cloud: Local, tmp_path: Path) -> None:
    with launched(tmp_path) as running:
        answer = answers(running)
        assert (answer.status_code, answer.json()) == (200, {"generated_text": "one two"})
        assert answer.headers["x-dyno-tokens"] == "2"
        assert len(cloud.objects()) == 6  # the archive and the five files of the model, uncompressed
        assert running.failure() is None
    release_weights()
    assert is_clean(cloud)
    assert journals() == ()
    assert cloud.emulator.refused == []


OPERATIONS = (
    "CreateModel", "CreateEndpointConfig", "CreateEndpoint", "DescribeEndpoint", "DeleteEndpoint",
    "DeleteEndpointConfig", "DeleteModel",
)  # fmt: skip


@pytest.mark.parametrize("fault", ["throttle", "server_error"])
def test_throttling_and_stumbles_of_every_call_are_waited_out(cloud: Local, tmp_path: Path, fault: str) -> None:
    left = getattr(cloud.emulator.faults, fault)
    left.update(dict.fromkeys(OPERATIONS, 3))
    with launched(tmp_path):
        pass
    assert {name: left[name] for name in OPERATIONS} == dict.fromkeys(OPERATIONS, 0)
    release_weights()
    assert is_clean(cloud)


def test_a_deletion_that_has_to_wait_says_who_goes_on(
    cloud: Local, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "dyno.sagemaker"), launched(tmp_path):
        cloud.emulator.faults.throttle["DeleteEndpoint"] = 8
    (message,) = [line for line in caplog.messages if "it still costs money" in line]
    assert "still throttled after 7 attempts" in message
    assert "trying for 15 more minutes. If this process is killed its guardian continues, and `dyno deploy" in message
    release_weights()
    assert is_clean(cloud)


def test_throttling_without_end_is_said(cloud: Local, tmp_path: Path) -> None:
    cloud.emulator.faults.throttle["CreateEndpoint"] = 1000
    error = fails(cloud, tmp_path)
    assert isinstance(error, Unavailable)
    assert "create_endpoint: " in str(error)
    assert "still throttled after 7 attempts" in str(error)


def test_creates_whose_answers_were_lost_are_not_made_twice(cloud: Local, tmp_path: Path) -> None:
    cloud.emulator.faults.lost_answer.update(CreateModel=1, CreateEndpointConfig=1, CreateEndpoint=1)
    with launched(tmp_path) as running:
        assert answers(running).status_code == 200
        created = cloud.emulator.region("us-east-1").created[-3:]
        assert [kind for kind, _ in created] == ["model", "endpoint-config", "endpoint"]
        assert cloud.emulator.calls.count("CreateEndpoint") == 2
    release_weights()
    assert is_clean(cloud)


def test_missing_capacity_is_tried_again_with_a_new_endpoint(cloud: Local, tmp_path: Path) -> None:
    cloud.emulator.faults.capacity_failures = 2
    with launched(tmp_path) as running:
        assert answers(running).status_code == 200
    assert cloud.emulator.calls.count("CreateEndpoint") == 3
    release_weights()
    assert is_clean(cloud)


def test_waits_between_capacity_attempts_double(cloud: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("engines.sagemaker.engine.Aws", lambda region: _with_sleep(region, waits))
    cloud.emulator.faults.capacity_failures = 99
    error = fails(cloud, tmp_path, capacity_retries=2, capacity_wait_s=300.0)
    assert isinstance(error, Unavailable)
    assert "tried 3 times; take another instance type or region" in str(error)
    assert [wait for wait in waits if wait >= 100] == [300.0, 600.0]


def _with_sleep(region: str, waits: list[float]) -> Aws:
    def sleep(duration_s: float) -> None:
        waits.append(duration_s)
        time.sleep(min(duration_s, 0.02))

    return Aws(region, sleep)


def test_no_quota_is_not_tried_again(cloud: Local, tmp_path: Path) -> None:
    cloud.emulator.faults.quota_types = {"ml.m5.xlarge"}
    error = fails(cloud, tmp_path)
    assert isinstance(error, Unavailable)
    assert "is 0 Instances" in str(error)
    assert "ask for a higher quota" in str(error)
    assert "max retries" not in str(error), "botocore's count: ours are not in it"
    assert cloud.emulator.calls.count("CreateEndpoint") == 1


def die(patch: pytest.MonkeyPatch, last_words: str) -> None:
    """Every container ends while it loads."""
    patch.setattr(StubContainer, "is_healthy", lambda self: False)
    patch.setattr(StubContainer, "has_ended", lambda self: "it died")
    patch.setattr(StubContainer, "log", lambda self: f"loading\n{last_words}\n")


def test_a_failed_health_check_ends_with_what_the_container_said(
    cloud: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(monkeypatch, f"ValueError: no such tokenizer for {SECRET}")
    error = fails(cloud, tmp_path)
    assert type(error) is LaunchFailed
    assert "did not pass the ping health check" in str(error)
    log = tmp_path / "work" / "server.log"
    assert f"its log {log} ends:\n[variant1/i-0123456789abcdef0]\nloading\nValueError: no such token" in str(error)
    assert log.read_text().endswith("ValueError: no such tokenizer for [redacted]\n")


def test_memory_that_ran_out_is_seen_in_the_container_s_log(
    cloud: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(monkeypatch, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB")
    error = fails(cloud, tmp_path)
    assert isinstance(error, OutOfMemory)
    assert "did not pass the ping health check" in str(error), "AWS's own reason says nothing of memory"


def test_a_log_that_may_not_be_read_is_said_and_hides_nothing(
    cloud: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(monkeypatch, "unread")
    cloud.emulator.faults.denied = {"GetLogEvents"}
    error = fails(cloud, tmp_path)
    assert type(error) is LaunchFailed
    assert "did not pass the ping health check" in str(error)
    assert "its log /aws/sagemaker/Endpoints/dyno-" in str(error)
    assert "could not be read: sagemaker: get_log_events: " in str(error)
    assert "not authorized to perform: GetLogEvents" in str(error)


def test_the_container_s_log_is_kept_with_the_trial(cloud: Local, tmp_path: Path) -> None:
    with launched(tmp_path, cloudwatch_wait_s=0.1) as running:
        answers(running)
    assert (tmp_path / "work" / "server.log").read_text() == "[variant1/i-0123456789abcdef0]\nthe stub begins\n"
    release_weights()


def test_a_slow_download_says_which_timeout_to_raise(cloud: Local, tmp_path: Path) -> None:
    cloud.emulator.faults.download_s = 5.0
    cloud.emulator.faults.second_s = 0.002
    error = fails(cloud, tmp_path, data_download_timeout_s=60)
    assert type(error) is LaunchFailed
    assert "raise data_download_timeout_s (was 60)" in str(error)


def test_an_endpoint_that_never_gets_ready_is_given_up_and_deleted(cloud: Local, tmp_path: Path) -> None:
    cloud.emulator.faults.never_ready = True
    error = fails(cloud, tmp_path, ready_timeout_s=0.5)
    assert isinstance(error, NotReady)
    assert "is still Creating after" in str(error)


def test_memory_that_ran_out_by_aws_s_own_reason_is_told_apart(
    cloud: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.sagemaker_emulator.control.HEALTH", "The container ended: CUDA out of memory")
    die(monkeypatch, "")
    assert isinstance(fails(cloud, tmp_path), OutOfMemory)


def test_a_role_that_cannot_be_assumed_is_aws_s_own_sentence(cloud: Local, tmp_path: Path) -> None:
    error = fails(cloud, tmp_path, role="arn:aws:iam::123456789012:role/missing")
    assert isinstance(error, SpecInvalid)
    assert "Could not assume role" in str(error)


def test_a_missing_bucket_is_seen_before_anything_is_created(cloud: Local, tmp_path: Path) -> None:
    error = fails(cloud, tmp_path, bucket="nobody-has-this")
    assert isinstance(error, Unavailable)
    assert "bucket 'nobody-has-this' does not exist; create it in us-east-1" in str(error)
    assert not [call for call in cloud.emulator.calls if call.startswith("Create")]


def test_no_credentials_is_one_sentence(cloud: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    error = fails(cloud, tmp_path)
    assert isinstance(error, Unavailable)
    assert "no AWS credentials found; set AWS_ACCESS_KEY_ID" in str(error)


def test_wrong_credentials_are_one_sentence(cloud: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with launched(tmp_path):  # uploads the weights with the right ones
        pass
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not/the+right/secret/0123456789abcdefghi")
    with pytest.raises(Unavailable, match="check the credentials"), launched(tmp_path):
        pass
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", cloud.environment["AWS_SECRET_ACCESS_KEY"])
    cleaned = [journal.remaining() for journal in journals()]
    assert cleaned, "what could not be deleted stays in its journal"


def test_a_slow_deletion_is_waited_for(cloud: Local, tmp_path: Path) -> None:
    cloud.emulator.faults.deleting_s = 0.5
    with launched(tmp_path):
        pass
    release_weights()
    assert is_clean(cloud)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("crash")])
def test_ctrl_c_and_crashes_delete_everything(cloud: Local, tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), launched(tmp_path):
        raise error
    release_weights()
    assert is_clean(cloud)
    assert journals() == ()


def test_ctrl_c_while_it_is_being_created_deletes_everything(
    cloud: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(endpoint_module, "_wait_in_service", interrupt)
    with pytest.raises(KeyboardInterrupt), launched(tmp_path):
        pass
    release_weights()
    assert is_clean(cloud)


def test_the_budget_ends_the_endpoint_before_it_is_exceeded(cloud: Local, tmp_path: Path) -> None:
    """0.001 USD at 1.2 USD/h are 3 s: the guardian deletes it, the engine says why."""
    with launched(tmp_path, usd_per_hour=1.2, max_cost_usd=0.001) as running:
        assert "its lifetime is over (budget" in str(eventually(running.failure))
        eventually(lambda: not cloud.emulator.region("us-east-1").endpoints, "it is deleted")
    release_weights()
    assert is_clean(cloud)


def test_objects_that_cannot_be_deleted_end_the_deletion_with_the_reason() -> None:
    """S3 answers 200 and names the refusals in the body: a loop that only looks at the status would never end."""
    errors = [{"Key": "p/x", "Code": "AccessDenied", "Message": "Access Denied"}]
    answers_of = {"list_objects_v2": {"Contents": [{"Key": "p/x"}]}, "delete_objects": {"Errors": errors}}

    class Refusing:
        def call(self, service: str, operation: str, parameters: object) -> object:
            return answers_of[operation]

    with pytest.raises(Unavailable, match=r"1 of 1 objects .* cannot be deleted \(AccessDenied"):
        delete_prefix(cast(Aws, Refusing()), "s3://bucket/p/")
