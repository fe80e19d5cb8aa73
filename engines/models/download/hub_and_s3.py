"""Downloads of model folders from the Hugging Face hub and from S3, whole or not at all.

Both need optional packages, imported here only when used. Only the files a T5 folder is served from are fetched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from engines.errors import ModelInvalid, Unavailable
from engines.models.cache import build_once
from engines.models.download.aws_region import configured_region
from engines.models.download.redaction import redact
from engines.models.download.s5cmd import Access, copy_all, objects, s3_access, s5cmd_path

T = TypeVar("T")

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

    s5cmd carries them where it is installed, else boto3. Credentials, region and address are boto3's wherever it is
    installed, so that both mean the same account; without it, s5cmd looks for its own.
    """
    match = _S3_URI.fullmatch(uri)
    if match is None:
        raise ModelInvalid(f"model s3 {uri!r}: expected s3://bucket/prefix")
    bucket, prefix = match["bucket"], match["prefix"].rstrip("/") + "/" if match["prefix"] else ""
    source = _source(bucket)
    found = [item for item in source.listing(prefix) if item.key != prefix and "/" not in item.key[len(prefix) :]]
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
        source.fetch(wanted, folder)
        sizes = {item.name: item.size_bytes for item in wanted}
        came = {path.name: path.stat().st_size for path in folder.iterdir()}
        wrong = [name for name, size in sizes.items() if came.get(name) != size]
        if wrong:
            raise Unavailable(f"{uri}: {', '.join(wrong)} did not arrive whole; try again")

    return build_once(cache / "s3" / digest, fetch)


def _source(bucket: str) -> _Boto3 | _S5cmd:
    try:
        import boto3
        from botocore import exceptions as errors
    except ImportError:
        if s5cmd_path() is None:
            raise Unavailable("s3 models need s5cmd or boto3: pip install boto3") from None
        return _S5cmd(bucket, Access)
    try:
        session = boto3.session.Session(region_name=configured_region() or None)
        client = session.client("s3")
        return _S5cmd(bucket, lambda: _access(session, client)) if s5cmd_path() else _Boto3(bucket, client)
    except errors.BotoCoreError as error:
        raise Unavailable(f"s3://{bucket}: {_line(error)}; set AWS credentials and region") from error


def _access(session: Any, client: Any) -> Access:
    """boto3's credentials of this moment (they may be renewed while a large model is on its way), region, address."""
    credentials = session.get_credentials()
    if credentials is None:
        raise Unavailable("no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    frozen = credentials.get_frozen_credentials()
    redact.learn(frozen.access_key, frozen.secret_key, frozen.token)
    return s3_access(frozen, str(client.meta.region_name), str(client.meta.endpoint_url))


class _Boto3:
    """Everything by boto3."""

    def __init__(self, bucket: str, client: Any) -> None:
        from botocore import exceptions as errors

        self._bucket = bucket
        self._errors = (errors.BotoCoreError, errors.ClientError)
        self._client = client

    def listing(self, prefix: str) -> list[_Object]:
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            items = [item for page in pages for item in page.get("Contents", ())]
        except self._errors as error:
            raise Unavailable(f"s3://{self._bucket}/{prefix}: {_line(error)}; check bucket and credentials") from error
        return [_Object(item["Key"], int(item["Size"]), item["ETag"].strip('"')) for item in items]

    def fetch(self, items: Sequence[_Object], folder: Path) -> None:
        for item in items:
            try:
                self._client.download_file(self._bucket, item.key, str(folder / item.name))
            except self._errors as error:
                raise Unavailable(f"s3://{self._bucket}/{item.key}: {_line(error)}; try again") from error


class _S5cmd:
    """Everything by s5cmd; `access()` states with which credentials and where."""

    def __init__(self, bucket: str, access: Callable[[], Access]) -> None:
        self._bucket = bucket
        self._access = access

    def listing(self, prefix: str) -> list[_Object]:
        start = f"s3://{self._bucket}/"
        entries = self._explained(lambda: objects(self._access(), start + prefix))
        return [
            _Object(entry["key"].removeprefix(start), int(entry.get("size", 0)), str(entry.get("etag", "")))
            for entry in entries
            if entry.get("type") == "file"
        ]

    def fetch(self, items: Sequence[_Object], folder: Path) -> None:
        pairs = [(f"s3://{self._bucket}/{item.key}", str((folder / item.name).absolute())) for item in items]
        self._explained(lambda: copy_all(self._access(), pairs))

    def _explained(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except Unavailable as error:
            raise Unavailable(f"s3://{self._bucket}: {error}; check bucket and credentials") from None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _line(error: BaseException) -> str:
    """The first line of an error's text, or its class name."""
    text = redact(str(error).strip())
    return text.splitlines()[0] if text else type(error).__name__
