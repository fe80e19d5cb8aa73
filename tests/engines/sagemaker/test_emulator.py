"""The emulator itself: the same answers as moto where moto is right, botocore's shapes everywhere, CBOR read back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.parsers import RpcV2CBORParser

from tests.sagemaker_emulator.frames import cbor
from tests.sagemaker_emulator.local import BUCKET, KEY_ID, REGION, SECRET, Local

ROLE = "arn:aws:iam::123456789012:role/dyno"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/i:1"
CONTAINER = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/m/model.tar.gz"}
VARIANT = {"VariantName": "v", "ModelName": "m1", "InstanceType": "ml.m5.xlarge", "InitialInstanceCount": 1}

Step = tuple[str, dict[str, Any]]
STEPS: tuple[Step, ...] = (
    ("describe_model", {"ModelName": "m1"}),
    ("create_model", {"ModelName": "m1", "ExecutionRoleArn": ROLE, "PrimaryContainer": CONTAINER}),
    ("describe_model", {"ModelName": "m1"}),
    ("list_models", {"NameContains": "m1"}),
    ("create_endpoint_config", {"EndpointConfigName": "c1", "ProductionVariants": [{**VARIANT, "ModelName": "no"}]}),
    ("create_endpoint_config", {"EndpointConfigName": "c1", "ProductionVariants": [VARIANT]}),
    ("describe_endpoint_config", {"EndpointConfigName": "c1"}),
    ("create_endpoint", {"EndpointName": "e1", "EndpointConfigName": "missing"}),
    ("create_endpoint", {"EndpointName": "e1", "EndpointConfigName": "c1"}),
    ("list_endpoints", {"NameContains": "e1"}),
    ("delete_endpoint", {"EndpointName": "e1"}),
    ("describe_endpoint", {"EndpointName": "e1"}),
    ("delete_endpoint_config", {"EndpointConfigName": "c1"}),
    ("delete_model", {"ModelName": "m1"}),
    ("describe_model", {"ModelName": "m1"}),
)


def _outcome(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
    """What came: the error's code and status, or the members of the answer with its identifying values."""
    try:
        answer = getattr(client, operation)(**parameters)
    except ClientError as error:
        return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    answer.pop("ResponseMetadata")
    return {key: value for key, value in answer.items() if key.endswith(("Arn", "Name"))}


def test_the_life_of_an_endpoint_is_as_moto_has_it(cloud: Local) -> None:
    cloud.s3.put_object(Bucket=BUCKET, Key="m/model.tar.gz", Body=b"x")
    moto = boto3.client("sagemaker", endpoint_url=cloud.environment["AWS_ENDPOINT_URL_S3"], region_name=REGION)
    ours = boto3.client("sagemaker")
    assert ours.meta.endpoint_url == cloud.emulator.url
    for operation, parameters in STEPS:
        assert _outcome(ours, operation, parameters) == _outcome(moto, operation, parameters), operation
    cloud.s3.delete_object(Bucket=BUCKET, Key="m/model.tar.gz")


REFUSED: tuple[Step, ...] = (
    ("create_model", {"ModelName": "m1", "ExecutionRoleArn": "no-arn-of-a-role-at-all", "PrimaryContainer": CONTAINER}),
    ("create_endpoint_config", {"EndpointConfigName": "c", "ProductionVariants": [{**VARIANT, "InstanceType": "m"}]}),
    ("create_endpoint_config", {
        "EndpointConfigName": "c",
        "ProductionVariants": [{**VARIANT, "ContainerStartupHealthCheckTimeoutInSeconds": 99999}],
    }),
    ("create_endpoint", {"EndpointName": "no_underscores", "EndpointConfigName": "c"}),
)  # fmt: skip


@pytest.mark.parametrize(("operation", "parameters"), REFUSED)
def test_what_botocore_lets_through_and_aws_refuses_is_refused(
    cloud: Local, operation: str, parameters: dict[str, Any]
) -> None:
    assert _outcome(boto3.client("sagemaker"), operation, parameters) == ("ValidationException", 400)


def test_a_wrong_secret_is_refused(cloud: Local) -> None:
    wrong = boto3.client("sagemaker", aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET[:-1] + "x")
    code, status = _outcome(wrong, "list_models", {})
    assert (code, status) == ("InvalidSignatureException", 403)


def test_a_model_in_use_and_doubles_are_refused_where_moto_lets_them(cloud: Local) -> None:
    cloud.s3.put_object(Bucket=BUCKET, Key="m/model.tar.gz", Body=b"x")
    client = boto3.client("sagemaker")
    client.create_model(ModelName="m1", ExecutionRoleArn=ROLE, PrimaryContainer=CONTAINER)
    client.create_endpoint_config(EndpointConfigName="c1", ProductionVariants=[VARIANT])
    client.create_endpoint(EndpointName="e1", EndpointConfigName="c1")
    again: tuple[Callable[[], Any], ...] = (
        lambda: client.create_model(ModelName="m1", ExecutionRoleArn=ROLE, PrimaryContainer=CONTAINER),
        lambda: client.create_endpoint(EndpointName="e1", EndpointConfigName="c1"),
        lambda: client.delete_endpoint_config(EndpointConfigName="c1"),
    )
    for call in again:
        with pytest.raises(ClientError, match=r"already existing|in use"):
            call()
    client.delete_endpoint(EndpointName="e1")
    client.delete_endpoint_config(EndpointConfigName="c1")
    client.delete_model(ModelName="m1")
    cloud.s3.delete_object(Bucket=BUCKET, Key="m/model.tar.gz")


def test_our_cbor_is_what_botocore_reads() -> None:
    value = {"a": [1, -5, 300, 70000, 1 << 40, 2.5, True, False], "ö": {"b": "text" * 100}}
    parser = RpcV2CBORParser()
    assert parser.parse_data_item(parser.get_peekable_stream_from_bytes(cbor(value))) == value
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert parser.parse_data_item(parser.get_peekable_stream_from_bytes(cbor(at))) == at
