"""Weights uploaded to S3 for SageMaker endpoints: once per process and model, deleted when the process ends.

s5cmd is used where it is installed, else boto3 with large parts. A guardian deletes them if this process is killed.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from engines.errors import EngineError, ModelInvalid, Unavailable
from engines.models.cache import folder_digest
from engines.models.download.hub_and_s3 import PICKLED, WANTED
from engines.models.download.redaction import redact
from engines.models.download.s5cmd import CONCURRENCY, PART_MIB, copy_all, s5cmd_path
from engines.sagemaker.aws import Aws, NotFound
from engines.sagemaker.converted import Converted
from engines.sagemaker.guardian import Guarded
from engines.sagemaker.journal import Resource

logger = logging.getLogger("dyno.sagemaker")

_uploaded: dict[tuple[str, str, str], tuple[str, Guarded]] = {}


def model_files(model_dir: Path) -> list[Path]:
    """The files a model folder is served from, safetensors before pickled weights. Raises ModelInvalid."""
    inside = sorted(path for path in model_dir.iterdir() if path.is_file())
    chosen = [path for path in inside if any(fnmatch(path.name, pattern) for pattern in WANTED)]
    if not any(path.suffix == ".safetensors" for path in chosen):
        chosen += [path for path in inside if any(fnmatch(path.name, pattern) for pattern in PICKLED)]
    if not any(path.suffix in (".safetensors", ".bin") for path in chosen):
        raise ModelInvalid(f"{model_dir}: no weights to upload (looked for {', '.join(WANTED + PICKLED)})")
    return chosen


def size_bytes(model_dir: Path) -> int:
    """Bytes that an upload of this folder moves."""
    return sum(path.stat().st_size for path in model_files(model_dir))


def shared_weights(aws: Aws, model_dir: Path, bucket: str, prefix: str, converted: Converted | None = None) -> str:
    """s3://bucket/prefix/weights/<digest>-<process>-<random>/ of this model, as it is or converted, uploaded by this
    process's first call."""
    digest = folder_digest(model_dir)[:16]
    key = (aws.region, bucket, f"{digest} {converted.form if converted else ''}")
    if key in _uploaded:
        return _uploaded[key][0]
    own = f"{digest}-{os.getpid()}-{secrets.token_hex(4)}"  # containers that share a bucket share process numbers
    uri = f"s3://{bucket}/{prefix}/weights/{own}/"
    guarded = Guarded.begin(f"weights-{own}", aws)
    try:
        guarded.journal.will_create(Resource(kind="s3-prefix", name=uri))
        files = converted.files if converted else {path.name: path for path in model_files(model_dir)}
        upload(aws, files, uri, guarded.journal.path.with_suffix(".log"))
    except BaseException:
        guarded.end()
        raise
    _uploaded[key] = (uri, guarded)
    return uri


def release_weights() -> None:
    """Delete what this process uploaded. Called when the process ends; safe to call twice."""
    while _uploaded:
        _, (_, guarded) = _uploaded.popitem()
        guarded.end()


def keep_weights() -> None:
    """Leave what this process uploaded where it is: an endpoint that is kept may fetch it again."""
    while _uploaded:
        _, (_, guarded) = _uploaded.popitem()
        guarded.keep()


def _release_at_exit() -> None:
    try:
        release_weights()
    except EngineError as error:
        print(f"dyno: {error}", file=sys.stderr)


atexit.register(_release_at_exit)


def upload(aws: Aws, files: Mapping[str, Path], uri: str, log_path: Path) -> None:
    """Copy `files` (name below `uri` -> file) and check that every object has its file's size. Raises Unavailable.

    `log_path` takes the output of s5cmd, where it is installed.
    """
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    total = sum(path.stat().st_size for path in files.values())
    logger.info("uploading %d files, %.1f MiB, to %s", len(files), total / (1 << 20), uri)
    if s5cmd_path():
        _s5cmd(aws, files, uri, log_path)
    else:
        _boto3(aws, files, bucket, prefix)
    found = aws.call("s3", "list_objects_v2", {"Bucket": bucket, "Prefix": prefix}).get("Contents", [])
    sizes = {item["Key"]: item["Size"] for item in found}
    wrong = [name for name, path in files.items() if sizes.get(prefix + name) != path.stat().st_size]
    if wrong:
        raise Unavailable(f"sagemaker: {uri}: {', '.join(wrong)} did not arrive whole; try again")


def put(aws: Aws, data: bytes, uri: str) -> None:
    """One small object."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    aws.call("s3", "put_object", {"Bucket": bucket, "Key": key, "Body": data})


def check_bucket(aws: Aws, bucket: str) -> None:
    """Raises Unavailable with one sentence when the bucket is missing, foreign or in another region."""
    try:
        answer = aws.call("s3", "head_bucket", {"Bucket": bucket})
    except NotFound:
        raise Unavailable(
            f"sagemaker: bucket {bucket!r} does not exist; create it in {aws.region}, or name another with --bucket"
        ) from None
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    home = headers.get("x-amz-bucket-region", aws.region)
    if home != aws.region:
        raise Unavailable(
            f"sagemaker: bucket {bucket!r} is in {home}, the endpoint in {aws.region}: SageMaker reads models from "
            f"the endpoint's region only; name a bucket in {aws.region}"
        )


def _s5cmd(aws: Aws, files: Mapping[str, Path], uri: str, log_path: Path) -> None:
    """With boto3's credentials, region and address: two SDKs must not find two accounts."""
    try:
        copy_all(aws.s3_access(), [(str(path.absolute()), uri + name) for name, path in files.items()], log_path)
    except Unavailable as error:
        raise Unavailable(f"sagemaker: {error}") from None


def _boto3(aws: Aws, files: Mapping[str, Path], bucket: str, prefix: str) -> None:
    import boto3.exceptions
    from boto3.s3 import transfer
    from botocore import exceptions as errors

    failed = boto3.exceptions.S3UploadFailedError
    part_bytes = PART_MIB << 20
    tuned = transfer.TransferConfig(
        multipart_threshold=part_bytes, multipart_chunksize=part_bytes, max_concurrency=CONCURRENCY
    )
    for name, path in files.items():
        try:
            aws.client("s3").upload_file(str(path), bucket, prefix + name, Config=tuned)
        except (failed, errors.ClientError, errors.BotoCoreError) as error:
            raise Unavailable(f"sagemaker: upload of {name} to {bucket}: {redact(str(error))}") from None
