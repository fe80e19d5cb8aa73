"""What would be created: held against botocore's service model, and refused in one sentence where it is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from engines.api import EngineSpec
from engines.errors import SpecInvalid
from engines.models.random_weights.shapes import SHAPES
from engines.sagemaker.catalogue import image_uri, instance_of, instances, regions
from engines.sagemaker.engine import prepare
from engines.sagemaker.memory import check_fit
from engines.sagemaker.plan import plan_endpoint
from engines.setting import OptionValue
from tests.sagemaker_emulator.fixtures import spec_for
from tests.sagemaker_emulator.model_check import request_fault

GIB = 1 << 30
OPERATIONS = {
    "create_model": "CreateModel",
    "create_endpoint_config": "CreateEndpointConfig",
    "create_endpoint": "CreateEndpoint",
}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "DYNO_SAGEMAKER_ROLE", "DYNO_SAGEMAKER_BUCKET"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("instance", sorted(instances()))
def test_every_request_for_every_instance_is_what_botocore_accepts(instance: str) -> None:
    plan = plan_endpoint(spec_for(instance=instance), GIB)
    for operation, parameters in plan.requests(1.8e9).items():
        assert request_fault("sagemaker", OPERATIONS[operation], parameters) == ""


def test_the_service_model_has_every_instance_of_the_catalogue() -> None:
    model = botocore.session.get_session().get_service_model("sagemaker")
    assert set(instances()) <= set(model.shape_for("ProductionVariantInstanceType").enum)


def test_image_accounts_are_those_of_the_sdk() -> None:
    facts = json.loads((Path(__file__).parent / "data" / "djl_accounts.json").read_text())["accounts"]
    assert set(facts) == set(regions())
    for region, account in facts.items():
        uri = image_uri("0.21.0-fastertransformer5.3.0-cu117", region)
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        assert uri == f"{account}.dkr.ecr.{region}.{suffix}/djl-inference:0.21.0-fastertransformer5.3.0-cu117"


def test_no_volume_is_asked_for_on_types_with_nvme() -> None:
    variant = plan_endpoint(spec_for(instance="ml.g5.12xlarge"), GIB).requests(0.0)["create_endpoint_config"]
    assert "VolumeSizeInGB" not in variant["ProductionVariants"][0]


def test_a_diskless_type_gets_a_volume_that_holds_the_weights() -> None:
    assert plan_endpoint(spec_for(instance="ml.p3.2xlarge"), 40 * GIB).volume_gb == 30 + 43


def test_timeouts_grow_with_the_weights_and_stay_within_aws_s_bounds() -> None:
    assert plan_endpoint(spec_for(instance="ml.g5.12xlarge"), 0).download_timeout_s == 600
    assert plan_endpoint(spec_for(instance="ml.g5.12xlarge"), 45 * GIB).download_timeout_s == 1500
    assert plan_endpoint(spec_for(instance="ml.g5.48xlarge"), 900 * GIB).health_check_timeout_s == 3600


WRONG: tuple[tuple[dict[str, OptionValue], str], ...] = (
    ({"region": "eu-centrl-1"}, "region 'eu-centrl-1' is unknown; did you mean 'eu-central-1'"),
    ({"region": ""}, "no region; set AWS_REGION"),
    ({"instance": "ml.g5.13xlarge"}, "instance 'ml.g5.13xlarge' is unknown here; did you mean"),
    ({"instance": "g5.12xlarge"}, "did you mean 'ml.g5.12xlarge'"),
    ({"instance": ""}, "no instance; name an instance type"),
    ({"role": "dyno"}, "role 'dyno': expected the ARN of an IAM role"),
    ({"role": ""}, "no role; name the execution role's ARN"),
    ({"bucket": ""}, "no bucket; name an S3 bucket"),
    ({"bucket": "s3://mine"}, "bucket 's3://mine': expected a bucket's name"),
    ({"image": ""}, "no image; name an LMI tag"),
    ({"data_download_timeout_s": 99999}, "data_download_timeout_s=99999: expected a whole number from 60 to 3600"),
    ({"health_check_timeout_s": 5}, "health_check_timeout_s=5: expected a whole number from 60 to 3600"),
    ({"weights": "mine/weights"}, "weights='mine/weights': expected an s3:// prefix"),
    ({"max_cost_usd": 1.0}, "max_cost_usd needs a price and none is known for ml.m5.xlarge"),
    ({"keep": "yes"}, "keep='yes': expected true or false"),
    ({"files": "nowhere"}, "files='nowhere': no such folder or model.tar.gz"),
    ({"hosts": "vllm"}, "hosts='vllm': our server has"),
    ({"image": "0.28.0-lmi10.0.0-cu124"}, "has no t5; give option files"),
)


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_bad_input_is_one_sentence_before_anything_is_contacted(options: dict[str, OptionValue], message: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        prepare(spec_for(**options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def _xxl(tmp_path: Path, dtype: str, degree: int, workers: int = 1) -> EngineSpec:
    (tmp_path / "config.json").write_text(json.dumps(SHAPES["flan-t5-xxl"].config()))
    return EngineSpec(
        engine="sagemaker", model_dir=tmp_path, dtype=dtype, device="cuda", tensor_parallel_degree=degree,
        workers=workers,
    )  # fmt: skip


def test_the_published_choice_follows_from_the_memory_model(tmp_path: Path) -> None:
    """FLAN-T5-XXL on A10Gs: fp32 needs degree 4, 16 bits are enough for degree 2."""
    g5 = instance_of("ml.g5.12xlarge")
    assert check_fit(_xxl(tmp_path, "fp32", 4), g5).endswith("fits")
    assert check_fit(_xxl(tmp_path, "fp16", 2), g5).endswith("fits")
    with pytest.raises(SpecInvalid) as caught:
        check_fit(_xxl(tmp_path, "fp32", 2), g5)
    output = str(caught.value)
    assert "does not fit ml.g5.12xlarge: fp32, batch 1, tensor_parallel_degree 2: weights 2" in output
    assert "each A10G of 22.35 GiB leaves 20.56 GiB" in output


def _decoder(folder: Path, parameters: int, positions: int = 131_072, **changes: Any) -> EngineSpec:
    """Llama-3.1-8B's sizes; the weights are a header without data."""
    config = SHAPES["llama-3.1-8b"].config() | {"max_position_embeddings": positions}
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [parameters], "data_offsets": [0, 2 * parameters]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * parameters)
    return EngineSpec(engine="sagemaker", model_dir=folder, device="cuda", **changes)


def test_a_decoder_is_counted_by_its_own_memory_model(tmp_path: Path) -> None:
    """8 billion weights in 16 bits take 14.9 GiB, on an A10G of 22.35; 640 tokens of 32 layers, 8 heads of 128."""
    g5 = instance_of("ml.g5.12xlarge")
    fits = check_fit(_decoder(tmp_path, 8_000_000_000, dtype="bf16"), g5)
    assert fits.startswith("bf16, batch 1 of 512 + 128 tokens, tensor_parallel_degree 1: weights 14.90 + keys and")
    assert "keys and values 0.08 +" in fits
    assert fits.endswith("fits")
    assert "batch 1 of 72 + 128 tokens" in check_fit(_decoder(tmp_path, 8_000_000_000, 200, dtype="bf16"), g5)
    for changes in ({"dtype": "fp32"}, {"dtype": "bf16", "batch_size": 96}):
        with pytest.raises(SpecInvalid, match=r"the model does not fit ml\.g5\.12xlarge"):
            check_fit(_decoder(tmp_path, 8_000_000_000, **changes), g5)
        assert check_fit(_decoder(tmp_path, 8_000_000_000, tensor_parallel_degree=4, **changes), g5).endswith("fits")
    with pytest.raises(SpecInvalid, match="3 does not divide the model's 32 heads"):
        check_fit(_decoder(tmp_path, 8, dtype="bf16", tensor_parallel_degree=3), g5)


def test_weights_that_cannot_be_counted_are_not_guessed(tmp_path: Path) -> None:
    g5 = instance_of("ml.g5.12xlarge")
    spec = _decoder(tmp_path, 8, dtype="bf16")
    assert check_fit(replace(spec, dtype="w8a8"), g5) == "memory not checked: size of dtype 'w8a8' unknown"
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert check_fit(spec, g5) == "memory not checked: the weights have no safetensors headers"
    (tmp_path / "config.json").write_text("{}")
    assert "no config.json of a known model" in check_fit(spec, g5)


@pytest.mark.parametrize(
    ("degree", "workers", "instance", "message"),
    [
        (3, 1, "ml.g5.12xlarge", "tensor_parallel_degree 3 does not divide the model's 64 heads"),
        (8, 1, "ml.g5.12xlarge", "tensor_parallel_degree 8 does not divide the 4 A10G of ml.g5.12xlarge"),
        (4, 2, "ml.g5.12xlarge", "2 workers of degree 4 need 8 devices; ml.g5.12xlarge has 4"),
        (1, 1, "ml.m5.xlarge", "ml.m5.xlarge has no accelerator; take device: cpu"),
    ],
)  # fmt: skip
def test_a_degree_that_does_not_divide_is_refused(
    tmp_path: Path, degree: int, workers: int, instance: str, message: str
) -> None:
    with pytest.raises(SpecInvalid) as caught:
        check_fit(_xxl(tmp_path, "bf16", degree, workers), instance_of(instance))
    assert message in str(caught.value)


def test_prices_say_where_and_when_they_are_from() -> None:
    price = instance_of("ml.g5.12xlarge").price
    assert price is not None
    assert price.usd_per_hour == 7.09
    assert "us-east-1, 2025-01-26" in price.origin
    stale = instance_of("ml.p4d.24xlarge").price
    assert stale is not None
    assert "stale" in stale.origin
    estimated = instance_of("ml.g6e.2xlarge").price
    assert estimated is not None
    assert estimated.origin.startswith("estimated, EC2 x 1.25")
    assert instance_of("ml.m5.xlarge").price is None
