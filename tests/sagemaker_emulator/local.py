"""The emulator with moto's S3 beside it, as an environment that the unmodified boto3 client can be pointed at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from engines.sagemaker.package import unpack
from tests.sagemaker_emulator.container import Container, HandlerContainer, ServerContainer
from tests.sagemaker_emulator.control import Host
from tests.sagemaker_emulator.server import Emulator

KEY_ID, SECRET = "AKIDEMULATOREXAMPLE0", "emulated/secret+access+key/0123456789abcd"
REGION = "us-east-1"
BUCKET = "dyno-emulated"


@dataclass(frozen=True, slots=True)
class Local:
    """A running emulator, the variables that lead to it, and an S3 client."""

    emulator: Emulator
    environment: dict[str, str]
    s3: Any

    def objects(self) -> list[str]:
        """Keys in the bucket."""
        return [item["Key"] for item in self.s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


@contextmanager
def local_aws(host: Host | None = None) -> Iterator[Local]:
    """SageMaker and S3 on loopback; `host` starts containers (default: our model server)."""
    s3_server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3_server.start()
    address, port = s3_server.get_host_and_port()
    s3_url = f"http://{address}:{port}"
    s3 = boto3.client(
        "s3", endpoint_url=s3_url, region_name=REGION, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET
    )
    s3.create_bucket(Bucket=BUCKET)
    own = {
        "AWS_ENDPOINT_URL_S3": s3_url, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }  # fmt: skip

    def fetch(uri: str) -> bytes | None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        try:
            data: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError:
            return None
        return data

    def below(uri: str) -> Iterator[tuple[str, bytes]]:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        for item in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
            yield item["Key"].removeprefix(prefix), s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()

    def serve(archive: bytes, container: dict[str, Any]) -> Container:
        environment = {**own, **container.get("Environment", {}), "HF_HUB_OFFLINE": "1"}
        if "/djl-inference:" in container["Image"] and "model.py" in unpack(archive, "model.tar.gz"):
            return HandlerContainer(archive, environment, below)
        return ServerContainer(archive, environment)

    try:
        with Emulator(fetch, host or serve, {KEY_ID: SECRET}) as emulator:
            services = ("SAGEMAKER", "SAGEMAKER_RUNTIME", "CLOUDWATCH", "CLOUDWATCH_LOGS")
            urls = {f"AWS_ENDPOINT_URL_{name}": emulator.url for name in services}
            yield Local(emulator, {**own, **urls}, s3)
    finally:
        s3_server.stop()
