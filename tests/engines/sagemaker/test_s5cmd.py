"""Uploads by s5cmd: by the real one where it is installed, and by the recorded one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engines.errors import Unavailable
from engines.sagemaker.aws import Aws
from engines.sagemaker.removal import delete_prefix
from engines.sagemaker.weights import upload
from tests.sagemaker_emulator.local import BUCKET, KEY_ID, SECRET, Local
from tests.sagemaker_emulator.s5cmd import program, recorded
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

__all__ = ["program", "recorded"]

URI = f"s3://{BUCKET}/odd/"
NAMES = [
    "a b.safetensors",
    "q'uote.json",
    'dq".json',
    "x*[1]?.json",
    "#hash.json",
    "$HOME.json",
    "back\\slash.json",
    "ü.json",
]
WAIT_S = 60.0


def _named(paths: list[Path]) -> dict[str, Path]:
    return {path.name: path for path in paths}


@pytest.fixture
def odd_files(tmp_path: Path) -> list[Path]:
    """Files whose names mean something to a shell or to s5cmd."""
    folder = tmp_path / "o'dd [d]ir * a"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(b"x" * (number + 1))
    return sorted(folder.iterdir())


@pytest.fixture(autouse=True)
def _nothing_left(cloud: Local) -> Iterator[None]:
    yield
    assert not list(Path(tempfile.gettempdir()).glob(f"dyno-{os.getpid()}-s5cmd-*"))


def test_odd_names_arrive_whole(cloud: Local, program: str, odd_files: list[Path], tmp_path: Path) -> None:
    aws = Aws("us-east-1")
    upload(aws, _named(odd_files), URI, tmp_path / "log")
    assert sorted(cloud.objects()) == sorted(f"odd/{name}" for name in NAMES)
    delete_prefix(aws, URI)
    assert not cloud.objects()


def test_credentials_and_address_come_from_boto3(
    cloud: Local, program: str, odd_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile that only boto3 is told of: s5cmd gets the key, and the address that boto3 uses."""
    config = tmp_path / "config"
    url = os.environ["AWS_ENDPOINT_URL_S3"]
    config.write_text(f"[profile p]\naws_access_key_id={KEY_ID}\naws_secret_access_key={SECRET}\nendpoint_url={url}\n")
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "p")
    aws = Aws("us-east-1")
    upload(aws, _named(odd_files[:1]), URI, tmp_path / "log")
    assert len(cloud.objects()) == 1
    delete_prefix(aws, URI)


def test_a_failure_is_one_sentence_without_secrets(
    cloud: Local, program: str, odd_files: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(Unavailable, match=r"s5cmd: ERROR .*NoSuchBucket") as raised:
        upload(Aws("us-east-1"), _named(odd_files), "s3://no-such-bucket/x/", tmp_path / "log")
    assert "\n" not in str(raised.value)
    message = str(raised.value) + ((tmp_path / "log").read_text() if program == "real" else "")
    assert KEY_ID not in message
    assert SECRET not in message


def test_a_path_with_a_line_break_is_refused(cloud: Local, program: str, tmp_path: Path) -> None:
    path = tmp_path / "a\nb.json"
    path.write_text("{}")
    with pytest.raises(Unavailable, match="line break"):
        upload(Aws("us-east-1"), _named([path]), URI, tmp_path / "log")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_upload_leaves_no_process_and_no_object(
    cloud: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str, how: signal.Signals
) -> None:
    output = tmp_path / "pid"
    monkeypatch.setenv("RECORDED_S5CMD_HANGS", str(output))
    code = (
        "from pathlib import Path; from engines.sagemaker.aws import Aws; from engines.sagemaker.weights import "
        "shared_weights; from tests.sagemaker_emulator.fixtures import MODEL_DIR; "
        f"shared_weights(Aws('us-east-1'), MODEL_DIR, {BUCKET!r}, 'p')"
    )
    client = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL)
    eventually(lambda: client.poll() is not None or (output.exists() and output.read_text()), "the upload hangs")
    client.send_signal(how)
    client.wait(WAIT_S)
    folder = Path(os.environ["DYNO_CACHE"]) / "sagemaker"
    temporary = Path(tempfile.gettempdir())
    eventually(lambda: not psutil.pid_exists(int(output.read_text())), "the program ends")
    eventually(lambda: not [*folder.iterdir(), *temporary.glob(f"dyno-{client.pid}-s5cmd-*")], "nothing is left")
    assert not cloud.objects()


def test_parts_of_an_upload_that_was_cut_short_are_removed(cloud: Local) -> None:
    for key in ("cut/a.safetensors", "other/a.safetensors"):
        begun = cloud.s3.create_multipart_upload(Bucket=BUCKET, Key=key)
        cloud.s3.upload_part(Bucket=BUCKET, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"x")
    delete_prefix(Aws("us-east-1"), f"s3://{BUCKET}/cut/")
    left = cloud.s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert [each["Key"] for each in left] == ["other/a.safetensors"]
    delete_prefix(Aws("us-east-1"), f"s3://{BUCKET}/other/")
