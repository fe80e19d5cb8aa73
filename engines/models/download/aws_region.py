"""The AWS region and partition (aws, aws-cn, aws-us-gov) that a download or an endpoint uses."""

from __future__ import annotations

import os

from engines.errors import SpecInvalid, Unavailable

NO_REGION = "sagemaker: no region; set AWS_REGION, give the profile one, or name one (--region, option region)"
_PARTITIONS = {
    "cn-": "aws-cn", "us-gov-": "aws-us-gov", "us-iso-": "aws-iso", "us-isob-": "aws-iso-b", "eu-isoe-": "aws-iso-e",
    "us-isof-": "aws-iso-f", "eusc-": "aws-eusc",
}  # fmt: skip


def configured_region() -> str:
    """$AWS_REGION, else $AWS_DEFAULT_REGION, else the profile's; '' where none is set. Raises Unavailable for a profile
    that does not exist.

    boto3 itself does not read AWS_REGION, which the AWS CLI and the other SDKs put first.
    """
    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if named:
        return named
    try:
        import botocore.session
        from botocore import exceptions as errors
    except ImportError:
        return ""
    try:
        return str(botocore.session.Session().get_config_variable("region") or "")
    except errors.BotoCoreError as error:
        raise Unavailable(f"sagemaker: {' '.join(str(error).split())}; check AWS_PROFILE and AWS_CONFIG_FILE") from None


def region_or_configured(named: str) -> str:
    """`named`, else the configured one. Raises SpecInvalid where there is none."""
    region = named or configured_region()
    if not region:
        raise SpecInvalid(NO_REGION)
    return region


def partition(region: str) -> str:
    """The partition of a region: accounts, roles and buckets of one cannot be used in another."""
    return next((name for prefix, name in _PARTITIONS.items() if region.startswith(prefix)), "aws")


def check_role(role: str, region: str) -> None:
    """Raises SpecInvalid for a role of another partition than the region's."""
    own, needed = role.split(":")[1], partition(region)
    if own != needed:
        raise SpecInvalid(
            f"sagemaker: role {role!r} is in partition {own}, region {region} in {needed}: take a role of an account "
            f"there (arn:{needed}:iam::...), or another region"
        )


def check_registry(image: str, region: str) -> None:
    """Raises SpecInvalid for an ECR image of another region: SageMaker pulls from its own region only."""
    host = image.partition("/")[0]
    parts = host.split(".")
    if parts[1:3] == ["dkr", "ecr"] and len(parts) > 4 and parts[3] != region:
        raise SpecInvalid(
            f"sagemaker: image {image!r} is in {parts[3]}, the endpoint in {region}: SageMaker pulls images "
            "from the endpoint's region only; copy it there, or name the region it is in"
        )
