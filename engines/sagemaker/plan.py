"""The plan of a SageMaker endpoint: the AWS requests themselves, checked against limits before any is sent."""

from __future__ import annotations

import math
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from engines.api import EngineSpec
from engines.errors import SpecInvalid
from engines.models.download.aws_region import check_registry, check_role, region_or_configured
from engines.sagemaker.catalogue import Instance, check_region, image_uri, instance_of
from engines.sagemaker.journal import EXPIRES_TAG, NAME_PREFIX, TAG
from engines.setting import OptionValue

VARIANT = "variant1"
DOWNLOAD_S_PER_GIB = 20.0
"""Assumed for the recommended timeouts: 50 MiB/s from S3 into the instance, which leaves a margin on every type."""
TIMEOUT_RANGE_S = (60, 3600)
DISKLESS_SPARE_GB = 30
MAX_VOLUME_GB = 512
CONTAINER_TEMP = "/tmp"  # noqa: S108 - inside the container, the instance's own disk; /opt/ml/model is read-only
ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

OPTIONS = {
    "instance": "instance type, such as ml.g5.12xlarge (required)",
    "instance_count": "instances behind the endpoint (default 1)",
    "image": "LMI image tag such as 0.28.0-lmi10.0.0-cu124, or the URI of an image that holds our server (required)",
    "hosts": "engine inside the image: transformers (the LMI Hugging Face handler), t5, ... (default transformers)",
    "files": "folder or model.tar.gz with the serving.properties to serve, instead of one made from the axes",
    "role": "ARN of the execution role (default $DYNO_SAGEMAKER_ROLE)",
    "bucket": "S3 bucket for the archive and the weights (default $DYNO_SAGEMAKER_BUCKET)",
    "region": "AWS region (default $AWS_REGION, then $AWS_DEFAULT_REGION, then the profile's)",
    "prefix": "S3 prefix under which everything is put (default dynamometer)",
    "weights": "s3:// prefix that already holds the weights: nothing is uploaded and it is kept",
    "data_download_timeout_s": "60 to 3600; default from the size of the weights",
    "health_check_timeout_s": "60 to 3600; default from the size of the weights",
    "ready_timeout_s": "give up when the endpoint is not in service after this long (default 3600)",
    "poll_s": "how often its status is asked for (default 15)",
    "capacity_retries": "how often a missing instance is tried again (default 3)",
    "capacity_wait_s": "wait before that (default 300)",
    "cloudwatch_wait_s": "wait for CloudWatch's metrics after the load at most this long (default 120; 0: none)",
    "usd_per_hour": "price of one instance, instead of the catalogue's",
    "max_cost_usd": "delete the endpoint before it has cost more than this",
    "keep": "leave everything running when done (default false)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what, seconds."""

    ready_s: float = 3600.0
    poll_s: float = 15.0
    capacity_retries: int = 3
    capacity_wait_s: float = 300.0
    cloudwatch_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPlan:
    """One endpoint to be. `name` is that of endpoint, config and model; `code_uri` and `weights_uri` are in S3
    (`weights_uri` '' until they are uploaded, or when the files name their own model)."""

    name: str
    region: str
    instance: Instance
    instance_count: int
    image: str
    role: str
    bucket: str
    prefix: str
    weights_uri: str
    download_timeout_s: int
    health_check_timeout_s: int
    volume_gb: int | None
    usd_per_hour: float | None
    price_origin: str
    max_cost_usd: float | None
    is_kept: bool
    patience: Patience
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def s3_prefix(self) -> str:
        """s3:// prefix of what this launch uploads for itself."""
        return f"s3://{self.bucket}/{self.prefix}/{self.name}/"

    @property
    def code_uri(self) -> str:
        """The address of model.tar.gz once uploaded."""
        return f"{self.s3_prefix}model.tar.gz"

    @property
    def lifetime_s(self) -> float | None:
        """Seconds after which the endpoint will have cost the budget; None without one."""
        if self.max_cost_usd is None or not self.usd_per_hour:
            return None
        return 3600.0 * self.max_cost_usd / (self.usd_per_hour * self.instance_count)

    def requests(self, expires_s: float) -> dict[str, dict[str, Any]]:
        """Operation -> parameters, in the order in which they are sent."""
        tags = [{"Key": TAG, "Value": self.name}, {"Key": EXPIRES_TAG, "Value": str(math.ceil(expires_s))}]
        variant: dict[str, Any] = {
            "VariantName": VARIANT,
            "ModelName": self.name,
            "InstanceType": self.instance.name,
            "InitialInstanceCount": self.instance_count,
            "ModelDataDownloadTimeoutInSeconds": self.download_timeout_s,
            "ContainerStartupHealthCheckTimeoutInSeconds": self.health_check_timeout_s,
        }
        if self.volume_gb is not None:
            variant["VolumeSizeInGB"] = self.volume_gb
        container = {"Image": self.image, "ModelDataUrl": self.code_uri, "Environment": dict(self.environment)}
        return {
            "create_model": {
                "ModelName": self.name, "ExecutionRoleArn": self.role, "PrimaryContainer": container, "Tags": tags,
            },
            "create_endpoint_config": {
                "EndpointConfigName": self.name, "ProductionVariants": [variant], "Tags": tags,
            },
            "create_endpoint": {"EndpointName": self.name, "EndpointConfigName": self.name, "Tags": tags},
        }  # fmt: skip


def hosted(options: Mapping[str, OptionValue]) -> tuple[str, dict[str, OptionValue]]:
    """The engine inside the endpoint, and the options that are its own."""
    return str(options.get("hosts", "transformers")), {n: v for n, v in options.items() if n not in OPTIONS}


def plan_endpoint(spec: EngineSpec, weights_bytes: int) -> EndpointPlan:
    """The plan of `spec`, all its options checked. Raises SpecInvalid, one sentence for the first fault."""
    options = _Options(spec.options)
    region = region_or_configured(options.text("region"))
    check_region(region)
    instance = instance_of(options.required("instance", "name an instance type such as ml.g5.12xlarge"))
    image = image_uri(options.required("image", "name an LMI tag such as 0.28.0-lmi10.0.0-cu124, or an image"), region)
    role = _matching(options.required("role", "name the execution role's ARN (--role)"), ROLE, "role",
                     "the ARN of an IAM role, arn:aws:iam::123456789012:role/name")  # fmt: skip
    check_role(role, region)
    check_registry(image, region)
    gib = weights_bytes / (1 << 30)
    default_timeout_s = min(TIMEOUT_RANGE_S[1], 600 + math.ceil(gib * DOWNLOAD_S_PER_GIB))
    usd, origin = _price(options, instance)
    return EndpointPlan(
        name=new_name(),
        region=region,
        instance=instance,
        instance_count=options.whole("instance_count", 1, (1, 100)),
        image=image,
        role=role,
        bucket=_matching(options.required("bucket", "name an S3 bucket (--bucket)"), BUCKET, "bucket",
                         "a bucket's name: 3 to 63 lower-case letters, digits, dots and dashes, without s3://"),
        prefix=(options.text("prefix") or "dynamometer").strip("/"),
        weights_uri=_folder_uri(options.text("weights")),
        download_timeout_s=options.whole("data_download_timeout_s", default_timeout_s, TIMEOUT_RANGE_S),
        health_check_timeout_s=options.whole("health_check_timeout_s", default_timeout_s, TIMEOUT_RANGE_S),
        volume_gb=_volume_gb(instance, gib),
        usd_per_hour=usd,
        price_origin=origin,
        max_cost_usd=_budget(options, usd, instance),
        is_kept=options.flag("keep"),
        patience=Patience(
            ready_s=options.number("ready_timeout_s", 3600.0),
            poll_s=options.number("poll_s", 15.0),
            capacity_retries=options.whole("capacity_retries", 3, (0, 100)),
            capacity_wait_s=options.number("capacity_wait_s", 300.0),
            cloudwatch_s=options.number("cloudwatch_wait_s", 120.0),
        ),
        environment={"HF_HOME": CONTAINER_TEMP} if "djl-inference" in image else {},
    )  # fmt: skip


def new_name() -> str:
    """A name nobody else has: dyno-<utc>-<random>, 63 characters at most."""
    return f"{NAME_PREFIX}{datetime.now(UTC):%Y%m%dt%H%M%S}-{secrets.token_hex(4)}"


def _price(options: _Options, instance: Instance) -> tuple[float | None, str]:
    given = options.number("usd_per_hour", 0.0)
    if given > 0:
        return given, "given"
    if instance.price is None:
        return None, "unknown"
    return instance.price.usd_per_hour, instance.price.origin


def _budget(options: _Options, usd_per_hour: float | None, instance: Instance) -> float | None:
    if "max_cost_usd" not in options.values:
        return None
    budget = options.number("max_cost_usd", 0.0)
    if usd_per_hour is None:
        raise SpecInvalid(f"sagemaker: max_cost_usd needs a price and none is known for {instance.name}; give one "
                          "(cost: {instance: ..., usd_per_hour: ...} in the scenario, or --usd-per-hour)")  # fmt: skip
    return budget


def _volume_gb(instance: Instance, gib: float) -> int | None:
    """EBS size on types without their own disk; None (must not be asked for) on NVMe types."""
    if instance.nvme_gb:
        if gib * 1.074 > instance.nvme_gb:
            raise SpecInvalid(
                f"sagemaker: {gib:.1f} GiB of weights do not fit the {instance.nvme_gb} GB disk of {instance.name}"
            )
        return None
    wanted = DISKLESS_SPARE_GB + math.ceil(gib * 1.074)
    if wanted > MAX_VOLUME_GB:
        raise SpecInvalid(
            f"sagemaker: {gib:.1f} GiB of weights need a volume of {wanted} GB and {instance.name} takes at most "
            f"{MAX_VOLUME_GB}; take a type with NVMe"
        )
    return wanted


def _folder_uri(text: str) -> str:
    if text and not text.startswith("s3://"):
        raise SpecInvalid(f"sagemaker: option weights={text!r}: expected an s3:// prefix")
    return text.rstrip("/") + "/" if text else ""


def _matching(text: str, pattern: re.Pattern[str], name: str, expected: str) -> str:
    if not pattern.fullmatch(text):
        raise SpecInvalid(f"sagemaker: {name} {text!r}: expected {expected}")
    return text


class _Options:
    """Typed look-ups that name the option when a value is wrong."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def text(self, name: str) -> str:
        given = self.values.get(name, "")
        return str(given) or os.environ.get(f"DYNO_SAGEMAKER_{name.upper()}", "")

    def required(self, name: str, advice: str) -> str:
        text = self.text(name)
        if not text:
            raise SpecInvalid(f"sagemaker: no {name}; {advice}, or set DYNO_SAGEMAKER_{name.upper()}")
        return text

    def number(self, name: str, default: float) -> float:
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise SpecInvalid(f"sagemaker: option {name}={value!r}: expected a number >= 0")
        return float(value)

    def whole(self, name: str, default: int, between: tuple[int, int]) -> int:
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not between[0] <= value <= between[1]:
            raise SpecInvalid(
                f"sagemaker: option {name}={value!r}: expected a whole number from {between[0]} to {between[1]}"
            )
        return value

    def flag(self, name: str) -> bool:
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise SpecInvalid(f"sagemaker: option {name}={value!r}: expected true or false")
        return value
