"""serving.properties <-> EngineSpec."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.api import EngineSpec
from engines.errors import SpecInvalid
from engines.serving_properties.read import ServerSettings, read_serving, spec_from_properties
from engines.serving_properties.write import spec_to_properties

MODEL = Path("/models/flan")

SPECS = [
    EngineSpec(engine="transformers", model_dir=MODEL),
    EngineSpec(engine="fake", model_dir=Path("/with blank/and=equals/\u00e9"), workers=2, batch_size=8),
    EngineSpec(
        engine="ctranslate2",
        model_dir=MODEL,
        dtype="int8",
        tensor_parallel_degree=2,
        batch_size=4,
        max_batch_delay_ms=5,
        job_queue_size=10,
        threads=3,
        options={"compile": False, "inter": 2, "frac": 0.25, "mode": "eager"},
    ),
    EngineSpec(engine="fake", model_dir=MODEL, rolling_batch="auto", device="cuda:1"),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.engine)
def test_a_spec_survives_the_file(spec: EngineSpec) -> None:
    text = spec_to_properties(spec)
    assert text.isascii()
    assert spec_from_properties(text, spec.model_dir) == spec
    assert read_serving(text, spec.model_dir).model_id == str(spec.model_dir)


def test_an_empty_file_means_djl_s_defaults() -> None:
    serving = read_serving("load_on_devices=-1", MODEL)
    assert serving.spec == EngineSpec(engine="transformers", model_dir=MODEL, max_batch_delay_ms=100)
    assert serving.settings == ServerSettings()
    assert serving.notes == ("option.dtype is absent: fp32 is served",)


def test_a_container_s_own_file_is_served_by_our_engine() -> None:
    text = """
# written for a DJL container
engine=Python
option.entryPoint=djl_python.huggingface
option.model_id=/opt/ml/model
option.dtype=float32
option.task=text2text-generation
option.rolling_batch=auto
batch_size=4
max_batch_delay=5
minWorkers=1
maxWorkers=2
load_on_devices=-1
retry_threshold=1
option.predict_timeout=30
"""
    serving = read_serving(text, MODEL)
    assert (serving.spec.engine, serving.spec.dtype, serving.spec.rolling_batch) == ("transformers", "fp32", "disable")
    assert (serving.spec.workers, serving.settings.min_workers) == (2, 1)
    assert (serving.settings.retry_threshold, serving.settings.predict_timeout_s) == (1, 30.0)
    assert any("option.task=text2text-generation has no effect" in note for note in serving.notes)
    assert any("turns option.rolling_batch=auto off" in note for note in serving.notes)


def test_the_device_s_own_worker_keys_come_first() -> None:
    text = "load_on_devices=-1\nmaxWorkers=8\ncpu.maxWorkers=3\ncpu.minWorkers=3\ngpu.maxWorkers=1"
    assert spec_from_properties(text, MODEL).workers == 3


def test_max_dynamic_batch_size_is_an_alias_and_batch_size_wins() -> None:
    assert spec_from_properties("max_dynamic_batch_size=4", MODEL).batch_size == 4
    assert spec_from_properties("max_dynamic_batch_size=4\nbatch_size=2", MODEL).batch_size == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_sise=4", "unknown key 'batch_sise'; did you mean 'batch_size'"),
        ("dtype=fp32", "unknown key 'dtype'; did you mean 'option.dtype'"),
        ("batch_size=four", "batch_size='four': expected a whole number >= 1"),
        ("batch_size=0", "batch_size=0: expected a whole number >= 1"),
        ("batch_size=4 ", "has blanks around its value"),
        ("batch_size=4 # small", "expected a whole number"),
        ("minWorkers=3\nmaxWorkers=2\nload_on_devices=-1", "maxWorkers=2 is below minWorkers=3"),
        ("engine=OnnxRuntime", "hosts engine=Python only"),
        ("option.entryPoint=djl_python.deepspeed", "expected engines.<name>"),
        ("option.entryPoint=model.py", "a script is for DJL.s worker: `dyno recommend --container dynamometer-0.1`"),
        ("engine=FasterTransformer", "`dyno properties migrate` writes the file for another version"),
        ("load_on_devices=0;1", "expected \\*, -1"),
        ("option.tensor_parallel_degree=max", "expected a whole number"),
        ("a=\\u00zz", "malformed escape"),
    ],
)
def test_a_wrong_value_is_named(text: str, message: str) -> None:
    with pytest.raises(SpecInvalid, match=message):
        read_serving(text, MODEL)
