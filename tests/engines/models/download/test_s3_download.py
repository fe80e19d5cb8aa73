"""Models from S3: by boto3, by the real s5cmd where it is installed, and by the recorded one; moto is the store."""

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

from engines.errors import EngineError, ModelInvalid, Unavailable
from engines.models.download import hub_and_s3 as model_download
from engines.models.download.hub_and_s3 import download_s3
from engines.models.folder import resolve_model
from engines.models.random_weights.folders import write_random_model
from engines.models.random_weights.t5_shapes import T5Shape
from tests.sagemaker_emulator.fixtures import cloud, stub_server
from tests.sagemaker_emulator.local import BUCKET, KEY_ID, SECRET, Local
from tests.sagemaker_emulator.s5cmd import program, recorded
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

__all__ = ["cloud", "program", "recorded", "stub_server"]

SHAPE = T5Shape(d_model=8, d_ff=16, num_heads=2, num_layers=1, d_kv=4, vocab_size=200)
SERVED = ["config.json", "extra [1] a*b.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
WAIT_S = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_random_model(folder, SHAPE, 0)
    (folder / "extra [1] a*b.json").write_text("{}")
    (folder / "flax_model.msgpack").write_text("not wanted")
    (folder / "nested").mkdir()
    (folder / "nested" / "config.json").write_text("not wanted either")
    return folder


@pytest.fixture
def stored(cloud: Local, model: Path) -> Iterator[str]:
    """s3://bucket/prefix of the model; the bucket is empty again afterwards."""
    prefix = "models/o'dd/"
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        cloud.s3.put_object(Bucket=BUCKET, Key=f"{prefix}{path.relative_to(model)}", Body=path.read_bytes())
    cloud.s3.put_object(Bucket=BUCKET, Key=prefix, Body=b"")  # as consoles make a folder
    yield f"s3://{BUCKET}/{prefix}"
    for key in cloud.objects():
        cloud.s3.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture
def without_s5cmd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_download, "s5cmd_path", lambda: None)


def test_by_boto3_the_model_files_come_once(
    stored: str, cloud: Local, without_s5cmd: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resolve_model("s3", stored, 0, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == SERVED

    monkeypatch.setattr(model_download._Boto3, "fetch", lambda *_: pytest.fail("fetched again"))
    assert resolve_model("s3", stored.rstrip("/"), 0, tmp_path) == folder


def test_by_s5cmd_the_model_files_come_whole(
    stored: str, cloud: Local, program: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resolve_model("s3", stored, 0, tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: (model / name).read_bytes() for name in SERVED
    }
    monkeypatch.setattr(model_download._S5cmd, "fetch", lambda *_: pytest.fail("fetched again"))
    assert resolve_model("s3", stored, 0, tmp_path) == folder
    assert not list(Path(tempfile.gettempdir()).glob(f"dyno-{os.getpid()}-s5cmd-*"))


def test_s5cmd_gets_the_credentials_and_address_that_only_boto3_finds(
    stored: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    url = os.environ["AWS_ENDPOINT_URL_S3"]
    config.write_text(
        f"[profile p]\naws_access_key_id={KEY_ID}\naws_secret_access_key={SECRET}\nendpoint_url={url}\n"
        "region=us-east-1\n"
    )
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "p")
    assert (download_s3(stored, tmp_path / "cache") / "model.safetensors").is_file()


@pytest.mark.parametrize("way", ["boto3", "s5cmd"])
@pytest.mark.parametrize(
    ("uri", "kind", "words"),
    [
        ("s3:/bucket/x", ModelInvalid, "expected s3://bucket/prefix"),
        ("s3://bucket/a b", ModelInvalid, "expected s3://bucket/prefix"),
        (f"s3://{BUCKET}/empty", ModelInvalid, "no model files there"),
        ("s3://no-such-bucket/models", Unavailable, "NoSuchBucket.*check bucket and credentials"),
    ],
)
def test_mistakes_are_one_sentence_without_secrets(
    stored: str, request: pytest.FixtureRequest, way: str, tmp_path: Path, uri: str, kind: type[EngineError], words: str
) -> None:
    request.getfixturevalue("recorded" if way == "s5cmd" else "without_s5cmd")
    with pytest.raises(kind, match=words) as raised:
        download_s3(uri, tmp_path)
    assert "\n" not in str(raised.value)
    assert KEY_ID not in str(raised.value)


def test_no_credentials_is_said_before_s5cmd_is_started(
    cloud: Local, recorded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(Unavailable, match="no AWS credentials found"):
        download_s3(f"s3://{BUCKET}/x", tmp_path)


def test_a_file_that_came_short_leaves_no_folder(
    stored: str, recorded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = model_download._S5cmd.fetch

    def cut(source: model_download._S5cmd, items: list[model_download._Object], folder: Path) -> None:
        fetch(source, items, folder)
        with (folder / "config.json").open("r+") as file:
            file.truncate(3)

    monkeypatch.setattr(model_download._S5cmd, "fetch", cut)
    with pytest.raises(Unavailable, match=r"config\.json did not arrive whole"):
        download_s3(stored, tmp_path)
    assert not [path for path in (tmp_path / "s3").iterdir() if path.is_dir()]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_leaves_no_process_and_no_model(
    stored: str, recorded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    message, cache = tmp_path / "pid", tmp_path / "cache"
    monkeypatch.setenv("RECORDED_S5CMD_HANGS", str(message))
    code = (
        "from pathlib import Path; from engines.models.download.hub_and_s3 import download_s3; "
        f"download_s3({stored!r}, Path({str(cache)!r}))"
    )
    client = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[4], stderr=subprocess.DEVNULL)
    eventually(lambda: client.poll() is not None or (message.exists() and message.read_text()), "the download hangs")
    client.send_signal(how)
    client.wait(WAIT_S)
    temporary = Path(tempfile.gettempdir())
    eventually(lambda: not psutil.pid_exists(int(message.read_text())), "the program ends")
    eventually(lambda: not list(temporary.glob(f"dyno-{client.pid}-s5cmd-*")), "nothing is left")

    monkeypatch.delenv("RECORDED_S5CMD_HANGS")
    assert not [path for path in (cache / "s3").iterdir() if path.is_dir() and not path.name.startswith(".")]
    assert (download_s3(stored, cache) / "model.safetensors").is_file()
    assert not list((cache / "s3").glob("*.partial"))


def test_without_a_client_it_says_what_to_install(
    without_s5cmd: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)  # import raises ImportError
    with pytest.raises(Unavailable, match="pip install boto3"):
        download_s3("s3://bucket/models/t5", tmp_path)


def test_without_boto3_s5cmd_looks_for_credentials_itself(
    stored: str, tmp_path: Path, recorded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setenv("S3_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL_S3"])
    assert (download_s3(stored, tmp_path / "cache") / "model.safetensors").is_file()
