"""Fixtures of every test that speaks to the emulator; imported by their conftest files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.api import EngineSpec
from engines.sagemaker import aws as aws_module
from engines.sagemaker import removal
from engines.sagemaker.weights import release_weights
from engines.setting import OptionValue
from tests.sagemaker_emulator.container import Container, StubContainer
from tests.sagemaker_emulator.control import Faults
from tests.sagemaker_emulator.local import BUCKET, REGION, Local, local_aws

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/dynamometer:0.1"
ROLE = "arn:aws:iam::123456789012:role/dyno"
MODEL_DIR = Path(__file__).parents[2] / "scenarios" / "assets" / "flan-t5-bench"


@pytest.fixture(scope="session")
def stub_server() -> Iterator[tuple[Local, list[StubContainer]]]:
    """One emulator for all tests without a model; the second part is what it started."""
    started: list[StubContainer] = []

    def host(archive: bytes, container: object) -> Container:
        started.append(StubContainer())
        return started[-1]

    with local_aws(host) as local:
        yield local, started


@pytest.fixture
def cloud(
    stub_server: tuple[Local, list[StubContainer]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Local]:
    """The emulator, clean, without faults, in this process's environment; afterwards nothing may be left in it."""
    local, started = stub_server
    started.clear()
    emulator = local.emulator
    reset(emulator.faults)
    for each in (emulator.calls, emulator.refused, emulator.broken, emulator.watch.invocations):
        each.clear()
    point_at(local, monkeypatch, tmp_path)
    yield local
    reset(emulator.faults)
    release_weights()
    assert not emulator.broken, emulator.broken


@pytest.fixture
def containers(stub_server: tuple[Local, list[StubContainer]]) -> list[StubContainer]:
    """The stub containers started in this test."""
    return stub_server[1]


def point_at(local: Local, patch: pytest.MonkeyPatch, cache: Path) -> None:
    """This process's AWS is the emulator; its waits are short, its journals lie under `cache`."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "DYNO_SAGEMAKER_"))]:
        patch.delenv(name)
    for name, value in local.environment.items():
        patch.setenv(name, value)
    patch.setenv("DYNO_CACHE", str(cache / "cache"))
    patch.setattr(aws_module, "FIRST_WAIT_S", 0.01)
    patch.setattr(aws_module, "LONGEST_WAIT_S", 0.05)
    patch.setattr(removal, "GONE_POLL_S", 0.05)


def reset(faults: Faults) -> None:
    """No faults."""
    fresh = Faults()
    for name in Faults.__slots__:
        setattr(faults, name, getattr(fresh, name))
    faults.second_s = 0.05


def spec_for(model_dir: Path = MODEL_DIR, **options: OptionValue) -> EngineSpec:
    """An endpoint of our server on the emulator, waiting little."""
    given: dict[str, OptionValue] = {
        "instance": "ml.m5.xlarge", "image": IMAGE, "hosts": "t5", "role": ROLE, "bucket": BUCKET, "region": REGION,
        "poll_s": 0.05, "cloudwatch_wait_s": 0, "capacity_wait_s": 0.05, "ready_timeout_s": 30,
    }  # fmt: skip
    return EngineSpec(engine="sagemaker", model_dir=model_dir, options={**given, **options}, threads=1)


def is_clean(local: Local) -> bool:
    """Nothing is left in SageMaker or in the bucket."""
    return local.emulator.region(REGION).is_empty() and not local.objects()
