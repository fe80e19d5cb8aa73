"""Model folders from the Hugging Face hub and from S3, whole or not at all.

Both need optional packages, imported here only when used. Only the files a T5 folder is served from are fetched.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

from engines.artifact_cache import build_once
from engines.errors import ModelInvalid, Unavailable

WANTED = ("*.json", "*.safetensors", "*.model")
PICKLED = ("pytorch_model*.bin",)
"""Fetched only where a source has no safetensors."""

_S3_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<prefix>[^*?\[\]\s]*)")


def download_hub(value: str) -> Path:
    """The local snapshot of hub repository `owner/name` or `owner/name@revision`, in Hugging Face's own cache.

    A snapshot that is already there is used without a network. Raises ModelInvalid (no such repository, or it has no
    weights) or Unavailable (no network, no package).
    """
    repository, _, revision = value.partition("@")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise Unavailable(
            f"hub model {value!r} needs the package huggingface_hub: pip install 'dynamometer[transformers]'"
        ) from error
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(WANTED)))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(repository, revision=revision or None, allow_patterns=list(PICKLED))
    except HFValidationError as error:
        raise ModelInvalid(
            f"hub model {value!r}: expected owner/name, like google/flan-t5-base: {_line(error)}"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelInvalid(
            f"hub model {value!r}: no such repository or revision; check the spelling, or log in if it is private"
        ) from error
    except Exception as error:  # the hub client raises its HTTP library's errors, which vary by version
        raise Unavailable(
            f"hub model {value!r} could not be fetched ({type(error).__name__}: {_line(error)}); check the network, or "
            "name a local folder with model: {path: ...}"
        ) from error
    return folder


@dataclass(frozen=True, slots=True)
class _Object:
    key: str
    size_bytes: int
    etag: str

    @property
    def name(self) -> str:
        return self.key.rsplit("/", 1)[-1]


def download_s3(uri: str, cache: Path) -> Path:
    """The local copy of the files directly under an s3:// prefix, kept per listing (keys, sizes, etags).

    Uses s5cmd where it is on PATH, else boto3; credentials and endpoint are theirs to find.
    """
    match = _S3_URI.fullmatch(uri)
    if match is None:
        raise ModelInvalid(f"model s3 {uri!r}: expected s3://bucket/prefix")
    bucket, prefix = match["bucket"], match["prefix"].rstrip("/") + "/" if match["prefix"] else ""
    source = _S5cmd(bucket) if shutil.which("s5cmd") else _Boto3(bucket)
    found = [item for item in source.listing(prefix) if "/" not in item.key[len(prefix) :]]
    wanted = [item for item in found if _matches(item.name, WANTED)]
    if not any(item.name.endswith(".safetensors") for item in wanted):
        wanted += [item for item in found if _matches(item.name, PICKLED)]
    if not wanted:
        raise ModelInvalid(f"{uri}: no model files there (looked for {', '.join(WANTED + PICKLED)}); check the prefix")
    text = "\n".join(
        f"{item.key}\0{item.size_bytes}\0{item.etag}" for item in sorted(wanted, key=lambda item: item.key)
    )
    digest = hashlib.sha256(f"{bucket}\n{text}".encode()).hexdigest()[:16]

    def fetch(folder: Path) -> None:
        for item in wanted:
            source.fetch(item.key, folder / item.name)

    return build_once(cache / "s3" / digest, fetch)


class _Boto3:
    def __init__(self, bucket: str) -> None:
        try:
            boto3 = import_module("boto3")
            errors = import_module("botocore.exceptions")
        except ImportError as error:
            raise Unavailable("s3 models need s5cmd or boto3: pip install boto3") from error
        self._bucket = bucket
        self._errors = (errors.BotoCoreError, errors.ClientError)
        try:
            self._client = boto3.client("s3")
        except self._errors as error:
            raise Unavailable(f"s3://{bucket}: {_line(error)}; set AWS credentials and region") from error

    def listing(self, prefix: str) -> list[_Object]:
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            items = [item for page in pages for item in page.get("Contents", ())]
        except self._errors as error:
            raise Unavailable(f"s3://{self._bucket}/{prefix}: {_line(error)}; check bucket and credentials") from error
        return [_Object(item["Key"], int(item["Size"]), item["ETag"].strip('"')) for item in items]

    def fetch(self, key: str, path: Path) -> None:
        try:
            self._client.download_file(self._bucket, key, str(path))
        except self._errors as error:
            raise Unavailable(f"s3://{self._bucket}/{key}: {_line(error)}; try again") from error


class _S5cmd:
    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def listing(self, prefix: str) -> list[_Object]:
        lines = self._run(["--json", "ls", "--etag", f"s3://{self._bucket}/{prefix}*"]).splitlines()
        entries = [json.loads(line) for line in lines if line.strip()]
        start = len(f"s3://{self._bucket}/")
        return [
            _Object(entry["key"][start:], int(entry.get("size", 0)), str(entry.get("etag", "")))
            for entry in entries
            if entry.get("type") == "file"
        ]

    def fetch(self, key: str, path: Path) -> None:
        self._run(["cp", f"s3://{self._bucket}/{key}", str(path)])

    def _run(self, arguments: Sequence[str]) -> str:
        command = ["s5cmd", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            message = (done.stderr or done.stdout).strip().splitlines()
            reason = message[0] if message else f"exit code {done.returncode}"
            raise Unavailable(f"s5cmd {arguments[-1]}: {reason}; check bucket and credentials")
        return done.stdout


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _line(error: BaseException) -> str:
    """The first line of an error's text, or its class name."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
