"""Where the region comes from, and what partitions keep apart."""

from __future__ import annotations

from pathlib import Path

import botocore.session
import pytest
from botocore.loaders import create_loader

from engines.errors import SpecInvalid, Unavailable
from engines.models.download.aws_region import configured_region, partition, region_or_configured
from engines.models.download.s5cmd import s3_access
from engines.sagemaker.catalogue import check_region, image_uri, regions
from engines.sagemaker.engine import prepare
from engines.setting import OptionValue
from tests.sagemaker_emulator.fixtures import spec_for

LMI = "0.28.0-lmi10.0.0-cu124"
LOADER = create_loader()
"""Reads botocore's service descriptions once for all sessions here, not once for each."""


def aws_session() -> botocore.session.Session:
    session = botocore.session.Session()
    session.register_component("data_loader", LOADER)
    return session


@pytest.fixture(autouse=True)
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration file whose default profile has one region, and profile p another; no variables."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config"
    config.write_text("[default]\nregion=eu-west-1\n[profile p]\nregion=us-gov-west-1\n[profile bare]\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "us-east-2", "AWS_DEFAULT_REGION": "us-west-2", "AWS_PROFILE": "p"}, "us-east-2"),
        ({"AWS_DEFAULT_REGION": "us-west-2", "AWS_PROFILE": "p"}, "us-west-2"),
        ({"AWS_PROFILE": "p"}, "us-gov-west-1"),
        ({}, "eu-west-1"),
        ({"AWS_PROFILE": "bare"}, ""),
    ],
)
def test_a_variable_wins_over_the_profile(
    variables: dict[str, str], region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert configured_region() == region
    assert region_or_configured("ca-west-1") == "ca-west-1"


def test_no_region_and_an_unknown_profile_are_one_sentence_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "bare")
    with pytest.raises(SpecInvalid, match=r"no region; set AWS_REGION, give the profile one, or name one"):
        region_or_configured("")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(Unavailable, match=r"nobody.*could not be found; check AWS_PROFILE"):
        region_or_configured("")


def test_partitions_are_botocore_s() -> None:
    session = aws_session()
    known = [name for each in session.get_available_partitions() for name in
             session.get_available_regions("sagemaker", each)]  # fmt: skip
    assert set(regions()) <= set(known)
    assert {name: partition(name) for name in known} == {name: session.get_partition_for_region(name) for name in known}
    for name in known:
        check_region(name)


@pytest.mark.parametrize(
    ("region", "options", "words"),
    [
        ("us-gov-west-1", {}, "is in partition aws, region us-gov-west-1 in aws-us-gov"),
        ("cn-north-1", {}, "take a role of an account there (arn:aws-cn:iam::...)"),
        ("eu-west-1", {"role": "arn:aws-us-gov:iam::123456789012:role/x"}, "is in partition aws-us-gov"),
        ("us-gov-east-1", {"role": "arn:aws-us-gov:iam::123456789012:role/x"}, "is in us-east-1, the endpoint in"),
        ("eusc-de-east-1", {"image": LMI}, "region 'eusc-de-east-1' holds no LMI image"),
    ],
)
def test_a_role_or_an_image_of_elsewhere_is_refused_before_anything_is_contacted(
    region: str, options: dict[str, OptionValue], words: str
) -> None:
    with pytest.raises(SpecInvalid) as raised:
        prepare(spec_for(**{"region": region, **options}))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("region", "host"),
    [("us-gov-west-1", "amazonaws.com"), ("cn-northwest-1", "amazonaws.com.cn"), ("eusc-de-east-1", "amazonaws.eu")],
)
def test_other_partitions_are_planned_with_their_own_names(region: str, host: str) -> None:
    role = f"arn:{partition(region)}:iam::123456789012:role/service-role/x"
    image = f"123456789012.dkr.ecr.{region}.{host}/dynamometer:0.1"
    plan = prepare(spec_for(region=region, role=role, image=image)).plan
    assert (plan.region, plan.role, plan.image) == (region, role, image)
    if region in regions():
        assert image_uri(LMI, region).split("/")[0].endswith(f".{region}.{host}")


@pytest.mark.parametrize(
    ("region", "options", "is_passed_on"),
    [
        ("us-east-1", {}, False),
        ("us-gov-west-1", {}, False),
        ("cn-north-1", {}, False),
        ("eusc-de-east-1", {}, False),
        ("us-iso-east-1", {}, True),
        ("us-gov-west-1", {"AWS_USE_FIPS_ENDPOINT": "true"}, True),
        ("us-east-1", {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, True),
    ],
)
def test_s5cmd_is_told_the_address_it_would_not_find(
    region: str, options: dict[str, str], is_passed_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    for name, value in options.items():
        monkeypatch.setenv(name, value)
    session = aws_session()
    session.set_credentials("key", "secret", "token")
    url = session.create_client("s3", region_name=region).meta.endpoint_url
    access = s3_access(session.get_credentials().get_frozen_credentials(), region, url)
    assert access.address == (url if is_passed_on else "")
    assert access.variables == {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token",
        "AWS_REGION": region,
    }  # fmt: skip
