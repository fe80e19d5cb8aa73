"""Hub and S3 sources, with the network and the optional packages played by stand-ins."""

from __future__ import annotations

import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from engines.errors import EngineError, ModelInvalid, Unavailable
from engines.model_download import download_hub, download_s3
from engines.model_folder import resolve_model
from engines.shapes import T5Shape, write_random_model

SHAPE = T5Shape(d_model=8, d_ff=16, num_heads=2, num_layers=1, d_kv=4, vocab_size=200)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_random_model(folder, SHAPE, 0)
    (folder / "flax_model.msgpack").write_text("not wanted")
    (folder / "nested").mkdir()
    (folder / "nested" / "config.json").write_text("not wanted either")
    return folder


class _ClientError(Exception):
    pass


class FakeBucket:
    """boto3's client over a local folder, under the prefix models/t5/."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []

    def get_paginator(self, _: str) -> FakeBucket:
        return self

    def paginate(self, **request: str) -> Iterator[dict[str, object]]:
        if request["Bucket"] != "bucket":
            raise _ClientError("NoSuchBucket: no such bucket")
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        keys = [(f"models/t5/{path.relative_to(self.folder)}", path.stat().st_size) for path in files]
        for key, size in keys:
            if key.startswith(request["Prefix"]):
                yield {"Contents": [{"Key": key, "Size": size, "ETag": f'"{size}"'}]}

    def download_file(self, _: str, key: str, path: str) -> None:
        self.fetched.append(key)
        shutil.copy(self.folder / key.removeprefix("models/t5/"), path)


@pytest.fixture
def bucket(model: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBucket:
    fake = FakeBucket(model)
    boto3, exceptions = ModuleType("boto3"), ModuleType("botocore.exceptions")
    boto3.client = lambda _: fake  # type: ignore[attr-defined]
    exceptions.BotoCoreError = exceptions.ClientError = _ClientError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "boto3", boto3)
    monkeypatch.setitem(sys.modules, "botocore", ModuleType("botocore"))
    monkeypatch.setitem(sys.modules, "botocore.exceptions", exceptions)
    monkeypatch.setattr("engines.model_download.shutil.which", lambda _: None)
    return fake


def test_s3_by_boto3_fetches_the_model_files_once(bucket: FakeBucket, tmp_path: Path) -> None:
    folder = resolve_model("s3", "s3://bucket/models/t5", 0, tmp_path)

    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    bucket.fetched.clear()
    assert resolve_model("s3", "s3://bucket/models/t5/", 0, tmp_path) == folder
    assert bucket.fetched == []


@pytest.mark.parametrize(
    ("uri", "kind", "words"),
    [
        ("s3:/bucket/x", ModelInvalid, "expected s3://bucket/prefix"),
        ("s3://bucket/a b", ModelInvalid, "expected s3://bucket/prefix"),
        ("s3://bucket/empty", ModelInvalid, "no model files there"),
        ("s3://other/models", Unavailable, "NoSuchBucket"),
    ],
)
def test_s3_mistakes_are_one_sentence(
    bucket: FakeBucket, tmp_path: Path, uri: str, kind: type[EngineError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        download_s3(uri, tmp_path)


def test_s3_without_a_client_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.model_download.shutil.which", lambda _: None)
    monkeypatch.setitem(sys.modules, "boto3", None)  # import raises ImportError

    with pytest.raises(Unavailable, match="pip install boto3"):
        download_s3("s3://bucket/models/t5", tmp_path)


FAKE_S5CMD = """#!{python}
import json, shutil, sys
from pathlib import Path
root = Path({root!r})
arguments = [word for word in sys.argv[1:] if word not in ("--json", "--etag")]
if "other" in arguments[1]:
    sys.exit("ERROR session: NoCredentialProviders: no valid providers in chain")
if arguments[0] == "ls":
    for path in sorted(root.iterdir()):
        key = "s3://bucket/models/t5/" + path.name
        print(json.dumps({{"key": key, "type": "file" if path.is_file() else "directory", "size": 1, "etag": "e"}}))
else:
    shutil.copy(root / arguments[1].rsplit("/", 1)[1], arguments[2])
"""


def test_s3_by_s5cmd(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "s5cmd"
    program.parent.mkdir()
    program.write_text(FAKE_S5CMD.format(python=sys.executable, root=str(model)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    assert (resolve_model("s3", "s3://bucket/models/t5", 0, tmp_path / "cache") / "model.safetensors").is_file()
    with pytest.raises(Unavailable, match="NoCredentialProviders"):
        download_s3("s3://other/models/t5", tmp_path / "cache")


def test_hub_gives_the_snapshot_of_a_revision(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def snapshot(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, "*.safetensors" in allow_patterns))
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)

    assert resolve_model("hub", "google/flan-t5-small@abc", 0, tmp_path) == model.resolve()
    assert asked == [("google/flan-t5-small", "abc", True)]


def test_hub_faults_tell_a_wrong_name_from_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception) -> None:
        def snapshot(*_: object, **__: object) -> str:
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)

    raising(RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None)))  # type: ignore[arg-type]
    with pytest.raises(ModelInvalid, match="no such repository"):
        download_hub("google/flan-t5-smal")
    raising(LocalEntryNotFoundError("outgoing traffic has been disabled\nsecond line"))
    with pytest.raises(Unavailable, match=r"outgoing traffic has been disabled\); check the network"):
        download_hub("google/flan-t5-small")


def test_hub_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(Unavailable, match="pip install"):
        download_hub("google/flan-t5-small")
