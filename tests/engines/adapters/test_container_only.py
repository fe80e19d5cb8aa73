"""Engines of the LMI containers: the files of the versions that had them, a refusal with a way out for the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.adapters.container_only import ContainerEngine
from engines.api import FEATURES, EngineSpec
from engines.errors import SpecInvalid, Unavailable
from engines.launching import engine_here

NAMES = ("fastertransformer", "tensorrt_llm", "neuronx")


def engine(name: str) -> ContainerEngine:
    found = engine_here(name)
    assert isinstance(found, ContainerEngine)
    return found


def spec(tmp_path: Path, name: str, kind: str = "t5", **fields: object) -> EngineSpec:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    return EngineSpec(engine=name, model_dir=tmp_path, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_launches_it_here_and_the_reason_names_a_way_out(name: str, tmp_path: Path) -> None:
    availability = engine(name).probe()
    assert not availability.is_available
    assert "use " in availability.reason or "serve T5 with" in availability.reason
    with pytest.raises(Unavailable, match=f"{name} cannot run here"):
        engine(name).launch(spec(tmp_path, name), tmp_path, 1.0)
    assert list(engine(name).capabilities().features) == list(FEATURES)


@pytest.mark.parametrize("version", ["0.21.0", "0.22.1", "0.23.0", "0.24.0"])
def test_fastertransformer_s_file_is_the_field_s(version: str, tmp_path: Path) -> None:
    asked = spec(tmp_path, "fastertransformer", tensor_parallel_degree=4, batch_size=4)
    values = engine("fastertransformer").properties(asked, version)
    assert values["engine"] == "FasterTransformer"
    assert values["option.tensor_parallel_degree"] == "4"
    assert values["option.dtype"] == "fp32"
    assert values["batch_size"] == "4"


@pytest.mark.parametrize(
    ("name", "container", "dtype", "message"),
    [
        ("fastertransformer", "0.25.0", "fp32", "is in 0.21.0 to 0.24.0.*engine t5"),
        ("fastertransformer", "0.24.0", "fp16", "overflows fp16"),
        ("fastertransformer", "0.24.0", "int4", "it takes fp32, bf16, fp16"),
        ("fastertransformer", "newest", "fp32", "expected a version such as"),
        ("tensorrt_llm", "0.26.0", "bf16", "does not serve T5; use container 0.27.0 to 0.32.0"),
        ("tensorrt_llm", "0.33.0", "bf16", "unsupported; use container"),
        ("neuronx", "0.29.0", "bf16", "decoder-only.*serve T5 with engine t5"),
        ("neuronx", "0.30.0", "bf16", "does not have it"),
    ],
)
def test_what_a_container_does_not_serve_is_refused(
    name: str, container: str, dtype: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecInvalid, match=message):
        engine(name).properties(spec(tmp_path, name, dtype=dtype), container)


@pytest.mark.parametrize(("version", "rolling"), [("0.27.0", "disable"), ("0.32.0-tensorrtllm0.12.0-cu125", "trtllm")])
def test_tensorrt_llm_batches_t5_as_its_version_can(version: str, rolling: str, tmp_path: Path) -> None:
    values = engine("tensorrt_llm").properties(spec(tmp_path, "tensorrt_llm", dtype="bf16"), version)
    assert values["option.rolling_batch"] == rolling


@pytest.mark.parametrize(
    ("version", "handler"),
    [("0.21.0", "transformer-neuronx"), ("0.23.0", "transformers-neuronx"), ("0.29.0", "transformers_neuronx")],
)
def test_the_neuron_handler_is_spelled_as_the_version_spelled_it(version: str, handler: str, tmp_path: Path) -> None:
    values = engine("neuronx").properties(spec(tmp_path, "neuronx", kind="llama", dtype="bf16"), version)
    assert values["option.entryPoint"] == f"djl_python.{handler}"
