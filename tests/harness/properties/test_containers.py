"""The versioned table: names, images, and agreement with our own server."""

from __future__ import annotations

import pytest

from engines.launching import load_engine
from engines.serving_properties import read as server
from harness.errors import UsageError
from harness.properties.containers import (
    container_names,
    image_tag,
    named_values,
    parse_container,
    python_version,
    vllm_in,
)
from harness.properties.key_rules import key_rules


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("0.21.0", "0.21.0-deepspeed0.8.3-cu117"),
        ("0.21.0-fastertransformer", "0.21.0-fastertransformer5.3.0-cu117"),
        ("0.27.0", "0.27.0-deepspeed0.12.6-cu121"),
        ("0.28.0", "0.28.0-lmi10.0.0-cu124"),
        ("0.36.0-lmi20", "0.36.0-lmi20.0.0-cu128"),
        ("0.36.0", "0.36.0-lmi28.0.0-cu130"),
        ("0.36", "0.36.0-lmi28.0.0-cu130"),
        ("0.36-lmi20", "0.36.0-lmi20.0.0-cu128"),
        ("0.33.0-tensorrtllm", "0.33.0-tensorrtllm0.21.0-cu128"),
        ("0.29.0-neuronx-sdk2.19.1", "0.29.0-neuronx-sdk2.19.1"),
        ("763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.38.0-lmi29.0.0-cu130", "0.38.0-lmi29.0.0-cu130"),
        ("0.34.0-lmi16.0.0-cu128-v1.1", "0.34.0-lmi16.0.0-cu128"),
        (
            "763104351884.dkr.ecr.us-west-2.amazonaws.com/djl-inference:0.36.0-lmi20.0.0-cu128-v1.0",
            "0.36.0-lmi20.0.0-cu128",
        ),
        ("dynamometer-0.1", ""),
    ],
)
def test_a_container_name_leads_to_its_image(name: str, tag: str) -> None:
    assert image_tag(parse_container(name)) == tag


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("0.21.0-deepspeed0.8.0-cu117", "deepspeed"),
        ("0.26.0-neuronx-sdk2.16.0", "neuronx"),
        ("0.30.0-neuronx-sdk2.20.1", "neuronx"),
        ("deepjavalibrary/djl-serving:0.30.0-pytorch-inf2", "neuronx"),
        ("0.30.0-pytorch-gpu", None),
        ("0.36.0-cpu-full", None),
        ("0.33.0-lmi15.0.0-cu128-v1.3", "lmi"),
        ("0.36.0-lmi23.0.0-cu129-v1.0", "lmi"),
        ("0.33.0-tensorrtllm0.21.0-cu128", "tensorrtllm"),
    ],
)
def test_published_tags_are_understood(name: str, kind: str | None) -> None:
    assert parse_container(name).kind == kind


@pytest.mark.parametrize("name", ["0.37.0", "0.27.0-lmi", "0.36.0-lmi99", "latest", "", "dynamometer-9"])
def test_an_unknown_container_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="unknown container"):
        parse_container(name)


def test_every_listed_container_parses() -> None:
    for name in container_names():
        assert parse_container(name).name == name


def test_every_row_of_the_table_is_well_formed() -> None:
    for rules in key_rules(parse_container("0.36.0")).values():
        for rule in rules:
            assert rule.type in {"int", "float", "bool", "str", "enum", "int_or_max", "int_list", "device_list", "json"}
            assert not (rule.since and rule.until) or rule.since <= rule.until
            assert (rule.type == "enum") == bool(rule.choices)
    for table in ("engines", "rolling_batch", "handlers"):
        for row in named_values(table).values():
            assert not row.until or row.retired


def test_the_python_of_an_image_never_goes_back() -> None:
    versions = [python_version(parse_container(name)) for name in container_names() if name[0] == "0"]
    assert versions == sorted(versions)
    assert versions[-1] == (3, 12)


def test_the_table_of_our_own_container_is_what_our_server_reads() -> None:
    known = set(key_rules(parse_container("dynamometer-0.1")))
    reads = set(server.SERVER_KEYS) | {f"option.{n}" for n in (*server.OPTION_FIELDS, *server.IGNORED_OPTIONS)}
    assert reads <= known


@pytest.mark.heavy
@pytest.mark.parametrize(
    "engine", ["transformers", "accelerate", "deepspeed", "openvino", "ctranslate2", "onnxruntime", "fake"]
)
def test_every_option_of_an_engine_is_in_the_table_of_our_own_container(engine: str) -> None:
    adapter = load_engine(engine)
    availability = adapter.probe()
    if not availability.is_available:
        pytest.skip(availability.reason)
    listed = {
        key.removeprefix("option.")
        for key, rules in key_rules(parse_container("dynamometer-0.1")).items()
        if any(rule.handler == engine for rule in rules)
    }
    assert listed == set(adapter.capabilities().options)


def test_every_lmi_release_of_2026_has_its_cuda_and_its_vllm() -> None:
    endings = {21: "cu129", 22: "cu129", 23: "cu129", 24: "cu129", 25: "cu130", 26: "cu130", 27: "cu130", 28: "cu130"}
    versions = ("0.16.0", "0.17.0", "0.18.0", "0.19.0", "0.20.1", "0.22.1", "0.23.1", "0.26.0")
    for (release, ending), version in zip(endings.items(), versions, strict=True):
        container = parse_container(f"0.36.0-lmi{release}")
        assert image_tag(container) == f"0.36.0-lmi{release}.0.0-{ending}"
        assert vllm_in(container) == version
    assert vllm_in(parse_container("0.38.0-lmi29")) == "0.28.0"
    assert vllm_in(parse_container("0.28.0")) == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "public.ecr.aws/deep-learning-containers/vllm:server-sagemaker-cuda",
            "SM_VLLM_ variables; write --format sm-v",
        ),
        (
            "sglang:0.5.17",
            "image .0.5.17 in 2026-11. has no serving.properties, it reads SM_SGLANG_ variables; write --format sm-s",
        ),
        ("huggingface-llamacpp", "it reads its own variables; no recommendation is for it yet"),
    ],
)
def test_an_image_without_serving_properties_is_refused_with_what_it_reads(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_container(name)
