"""The catalogue of SageMaker instances, their prices and the LMI container images, read from catalogue.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from engines.errors import SpecInvalid
from engines.nearest import did_you_mean

LMI_TAG = re.compile(r"\d+\.\d+\.\d+-[a-z0-9.-]+")
EC2_RATIO = 1.25
"""SageMaker's price over EC2's, for most g5, g6 and p3 sizes; a price made with it is marked estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD per hour of one instance: whose number it is, and `origin`, where it comes from in words."""

    usd_per_hour: float
    source: Literal["catalogue", "scenario", "option"]
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance type. `accelerator_gib` is the memory of each, as its driver reports it. `nvme_gb` 0: its disk is an
    EBS volume whose size may be asked for."""

    name: str
    vcpus: int
    host_gib: float
    chip: str = ""
    accelerators: int = 0
    accelerator_gib: float = 0.0
    nvme_gb: int = 0
    price: Price | None = None


@cache
def instances() -> Mapping[str, Instance]:
    """Every known instance by name, such as 'ml.g5.12xlarge'."""
    return {name: _instance(name, row) for name, row in _table()["instances"].items()}


def instance_of(name: str) -> Instance:
    """The instance called `name`. Raises SpecInvalid with the nearest known one."""
    known = instances()
    if name in known:
        return known[name]
    hint = did_you_mean(name if name.startswith("ml.") else f"ml.{name}", known)
    raise SpecInvalid(f"sagemaker: instance {name!r} is unknown here{hint}; expected one such as ml.g5.12xlarge")


def image_uri(image: str, region: str) -> str:
    """The image to pull: a whole URI as it is, a djl-inference tag such as 0.28.0-lmi10.0.0-cu124 from the region's
    account. Raises SpecInvalid for what is neither, and for a region that has none."""
    if "/" in image:
        return image
    if not LMI_TAG.fullmatch(image.removeprefix("djl-inference:")):
        raise SpecInvalid(
            f"sagemaker: image {image!r}: expected a registry's URI such as ACCOUNT.dkr.ecr.{region}.amazonaws.com/"
            "dynamometer:0.1, or an LMI tag such as 0.28.0-lmi10.0.0-cu124"
        )
    accounts = _table()["accounts"]
    account = accounts["others"].get(region) or (accounts["default"] if region in accounts["regions"] else "")
    if not account:
        raise SpecInvalid(f"sagemaker: region {region!r} holds no LMI image that is known here{_near(region)}")
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{account}.dkr.ecr.{region}.{suffix}/djl-inference:{image.removeprefix('djl-inference:')}"


def regions() -> tuple[str, ...]:
    """Every region with an account for the LMI images."""
    accounts = _table()["accounts"]
    return tuple(sorted([*accounts["regions"], *accounts["others"]]))


def check_region(region: str) -> None:
    """Raises SpecInvalid with the nearest region when there is none of that name, here or in boto3's own list (a region
    without LMI images still takes the user's own image)."""
    if region not in regions() and region not in _regions_of_boto3():
        raise SpecInvalid(f"sagemaker: region {region!r} is unknown{_near(region)}")


def _regions_of_boto3() -> frozenset[str]:
    try:
        import botocore.session
    except ImportError:
        return frozenset()
    session: Any = botocore.session.Session()
    partitions = session.get_available_partitions()
    return frozenset(name for each in partitions for name in session.get_available_regions("sagemaker", each))


def _near(region: str) -> str:
    return did_you_mean(region, regions()) or f"; known: {', '.join(regions())}"


def _instance(name: str, row: Mapping[str, Any]) -> Instance:
    return Instance(
        name=name,
        vcpus=row["vcpus"],
        host_gib=float(row["host_gib"]),
        chip=row.get("chip", ""),
        accelerators=row.get("accelerators", 0),
        accelerator_gib=float(row.get("gib", 0.0)),
        nvme_gb=row.get("nvme_gb", 0),
        price=_price(row),
    )


def _price(row: Mapping[str, Any]) -> Price | None:
    prices = _table()["prices"]
    where = f"{prices['region']}, {prices['date']}, {prices['source']}"
    if row.get("is_stale"):
        where += "; known to be stale, prices were cut in 2025"
    if "usd" in row:
        return Price(usd_per_hour=row["usd"], source="catalogue", origin=where)
    if "ec2_usd" in row:
        ratio = row.get("ratio", EC2_RATIO)
        estimated = f"estimated, EC2 x {ratio:g}: {where}"
        return Price(usd_per_hour=round(row["ec2_usd"] * ratio, 4), source="catalogue", origin=estimated)
    return None


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("engines.sagemaker").joinpath("catalogue.toml").read_text(encoding="utf-8"))
