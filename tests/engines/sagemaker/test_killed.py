"""kill -9 of the client: its guardian deletes; where that died too, the clean-up finds it by journal and by tag."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from engines.sagemaker import guardian
from engines.sagemaker.aws import Aws
from engines.sagemaker.engine import SageMakerEngine
from engines.sagemaker.guardian import Guarded
from engines.sagemaker.journal import EXPIRES_TAG, TAG, Journal, Resource, journal_folder, journals
from harness.cli.deploy import command
from tests.sagemaker_emulator.fixtures import is_clean, spec_for
from tests.sagemaker_emulator.local import BUCKET, Local
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

WAIT_S = 90.0
CLIENT = """
from pathlib import Path
from engines.sagemaker.engine import SageMakerEngine
from tests.sagemaker_emulator.fixtures import spec_for
with SageMakerEngine().launch(spec_for(), Path({workdir!r}), 60.0):
    print("up", flush=True)
    input()
"""


def _client(tmp_path: Path) -> subprocess.Popen[str]:
    code = CLIENT.format(workdir=str(tmp_path / "work"))
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _kill(client: subprocess.Popen[str], *, also_guardians: bool) -> None:
    guardians = [
        each for each in psutil.Process(client.pid).children() if "engines.sagemaker.guardian" in each.cmdline()
    ]
    assert len(guardians) == 2, "one of the weights, one of the endpoint"
    if also_guardians:
        for each in guardians:
            each.kill()
    os.kill(client.pid, signal.SIGKILL)
    client.communicate()


def test_a_client_killed_while_creating_leaves_nothing(cloud: Local, tmp_path: Path) -> None:
    cloud.emulator.faults.never_ready = True
    client = _client(tmp_path)
    eventually(lambda: bool(cloud.emulator.region("us-east-1").endpoints), "it is being created")
    _kill(client, also_guardians=False)
    eventually(lambda: is_clean(cloud) and not journals(), "the guardians delete everything")


@pytest.mark.parametrize("notices", ["the closed pipe", "the other parent"])
def test_a_client_killed_before_its_guardian_watched_leaves_nothing(cloud: Local, tmp_path: Path, notices: str) -> None:
    """Starting takes a guardian a second on a busy machine: whoever dies within it must not be missed."""
    key = "early/model.tar.gz"
    cloud.s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    journal = Journal.begin("dyno-early", "us-east-1")
    journal.will_create(Resource(kind="s3-prefix", name=f"s3://{BUCKET}/early/"))
    parent = os.getpid() if notices == "the closed pipe" else dead.pid
    argv = [sys.executable, "-m", "engines.sagemaker.guardian", str(journal.path), "600", str(parent)]
    with subprocess.Popen(argv, cwd=Path(__file__).parents[3], stdin=subprocess.PIPE) as guardian:
        assert guardian.stdin is not None
        if notices == "the closed pipe":
            guardian.stdin.close()
        try:
            assert guardian.wait(WAIT_S) == 0
        finally:
            guardian.kill()
    assert not journal.path.exists()
    assert key not in cloud.objects()


def test_a_deletion_interrupted_is_finished_by_the_guardian(cloud: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Ctrl-C that comes while Ctrl-C is being cleaned up after must not send the guardian home."""
    key = "twice/model.tar.gz"
    cloud.s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    guarded = Guarded.begin("dyno-twice", Aws("us-east-1"))
    guarded.journal.will_create(Resource(kind="s3-prefix", name=f"s3://{BUCKET}/twice/"))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(guardian, "remove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        guarded.end()
    assert guarded._process.wait(WAIT_S) == 0
    assert key not in cloud.objects()
    assert not journals()


def test_a_guardian_let_go_by_a_client_that_did_not_wait_takes_its_log_along(cloud: Local) -> None:
    guarded = Guarded.begin("dyno-unwaited", Aws("us-east-1"))
    guarded.journal.close()
    assert guarded._process.stdin is not None
    guarded._process.stdin.write(b"done\n")
    guarded._process.stdin.close()
    assert guarded._process.wait(WAIT_S) == 0
    assert not list(journal_folder().iterdir())


def test_a_client_and_its_guardians_killed_are_cleaned_up_by_the_journal(cloud: Local, tmp_path: Path) -> None:
    client = _client(tmp_path)
    assert client.stdout is not None
    assert client.stdout.readline() == "up\n"
    _kill(client, also_guardians=True)
    assert len(journals()) == 2
    listed = CliRunner().invoke(command, ["sagemaker", "cleanup", "--dry-run"])
    assert listed.output.count("would delete") == 5  # endpoint, config, model, archive, weights
    assert not is_clean(cloud)
    cleaned = CliRunner().invoke(command, ["sagemaker", "cleanup"])
    assert cleaned.exit_code == 0, cleaned.output
    assert is_clean(cloud)
    assert journals() == ()


def test_what_a_lost_machine_left_is_found_by_its_tag_once_expired(cloud: Local, tmp_path: Path) -> None:
    aws = Aws("us-east-1")
    plane = cloud.emulator.region("us-east-1")
    cloud.s3.put_object(Bucket=BUCKET, Key="a/model.tar.gz", Body=b"x")
    for name, expires in (("dyno-old", time.time() - 10), ("dyno-new", time.time() + 1000)):
        tags = [{"Key": TAG, "Value": name}, {"Key": EXPIRES_TAG, "Value": str(int(expires))}]
        container = {"Image": "i", "ModelDataUrl": f"s3://{BUCKET}/a/model.tar.gz"}
        role = "arn:aws:iam::123456789012:role/dyno"
        aws.call("sagemaker", "create_model", {
            "ModelName": name, "ExecutionRoleArn": role, "PrimaryContainer": container, "Tags": tags,
        })  # fmt: skip
    untagged = {"ModelName": "dyno-s-namesake", "ExecutionRoleArn": role, "PrimaryContainer": container}
    aws.call("sagemaker", "create_model", untagged)
    result = CliRunner().invoke(command, ["sagemaker", "cleanup"])
    assert "deleting model dyno-old: its tag is past its date" in result.output
    assert "keeping (--all deletes it too) model dyno-new" in result.output
    assert set(plane.models) == {"dyno-new", "dyno-s-namesake"}, "what is in use, or is not ours, stays"
    CliRunner().invoke(command, ["sagemaker", "cleanup", "--all"])
    assert set(plane.models) == {"dyno-s-namesake"}
    aws.call("sagemaker", "delete_model", {"ModelName": "dyno-s-namesake"})
    cloud.s3.delete_object(Bucket=BUCKET, Key="a/model.tar.gz")


def test_a_running_launch_is_not_cleaned_up(cloud: Local, tmp_path: Path) -> None:
    with SageMakerEngine().launch(spec_for(), tmp_path / "work", 30.0) as running:
        result = CliRunner().invoke(command, ["sagemaker", "cleanup"])
        assert "nothing to clean up" in result.output
        assert result.output.count("keeping") == 5
        assert running.failure() is None


def test_a_kept_endpoint_stays_until_all_is_asked_for(cloud: Local, tmp_path: Path) -> None:
    with SageMakerEngine().launch(spec_for(keep=True), tmp_path / "work", 30.0):
        pass
    for journal in journals():  # as after the end of this process
        lines = journal.path.read_text().splitlines()
        begin = json.loads(lines[0]) | {"start": "1"}
        journal.path.write_text("\n".join([json.dumps(begin), *lines[1:]]) + "\n")
    result = CliRunner().invoke(command, ["sagemaker", "cleanup"])
    assert result.output.count("keeping (--all deletes it too)") == result.output.count("kept on purpose") == 5
    assert not is_clean(cloud)
    assert CliRunner().invoke(command, ["sagemaker", "cleanup", "--all"]).exit_code == 0
    assert is_clean(cloud)
    assert journals() == ()


def test_guardian_and_proxy_import_nothing_from_the_folder_they_start_in(
    cloud: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("engines", "boto3", "asyncio"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.chdir(tmp_path)
    with SageMakerEngine().launch(spec_for(), tmp_path / "work", 30.0) as running:
        assert running.failure() is None
    guarded = Guarded.begin("dyno-folder", Aws("us-east-1"))
    cloud.s3.put_object(Bucket=BUCKET, Key="folder/x", Body=b"x")
    guarded.journal.will_create(Resource(kind="s3-prefix", name=f"s3://{BUCKET}/folder/"))
    assert guarded._process.stdin is not None
    guarded._process.stdin.close()  # to the guardian, this process has ended
    assert guarded._process.wait(WAIT_S) == 0
    assert "folder/x" not in cloud.objects()


def test_a_journal_says_what_was_asked_for_before_it_is_asked_for(cloud: Local, tmp_path: Path) -> None:
    """A create that is announced and never sent counts as existing; a torn last line does not."""
    journal = Journal.begin("dyno-x", "us-east-1")
    journal.will_create(Resource(kind="model", name="dyno-x"))
    journal.will_create(Resource(kind="endpoint", name="dyno-x"))
    with journal.path.open("a") as file:
        file.write('{"event": "create", "ki')
    again = Journal(journal_folder() / "dyno-x.jsonl")
    assert [resource.kind for resource in again.remaining()] == ["endpoint", "model"]
    assert again.is_owned()
    journal.path.unlink()


@pytest.mark.parametrize(("age_s", "is_owned"), [(60.0, True), (8 * 3600.0, False)])
def test_a_launch_of_another_host_on_this_cache_is_in_use_until_nothing_can_live_any_more(
    cloud: Local, age_s: float, is_owned: bool
) -> None:
    journal = Journal.begin("dyno-elsewhere", "us-east-1")
    begin = json.loads(journal.path.read_text())
    begin |= {"host": "another pid:[1]", "pid": 1, "start": "1", "at_s": begin["at_s"] - age_s}
    journal.path.write_text(json.dumps(begin) + "\n")
    assert journal.is_owned() is is_owned
    journal.path.unlink()


def test_cleanup_without_a_region_is_one_sentence(cloud: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    result = CliRunner().invoke(command, ["sagemaker", "cleanup"])
    assert "no region; set AWS_REGION" in str(result.exception)
