"""Migration between container versions: nothing is guessed, and what comes out passes the target's linter."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.properties.containers import parse_container
from harness.properties.lint.records import ModelFacts
from harness.properties.migrate import Migration, migrate

T5 = ModelFacts(family="t5", heads=64)
LLAMA = ModelFacts(family="llama", heads=32)


def _migrated(values: dict[str, str], source: str, target: str, model: ModelFacts, replace: bool = False) -> Migration:
    return migrate(values, parse_container(source), parse_container(target), model, replace_engine=replace)


def _errors(done: Migration) -> list[str]:
    return [finding.message for finding in done.findings if finding.severity == "error"]


def test_a_file_that_needs_nothing_stays_as_it_is() -> None:
    values = {
        "engine": "Python",
        "option.entryPoint": "djl_python.huggingface",
        "option.model_id": "m",
        "batch_size": "4",
    }
    done = _migrated(values, "0.25.0", "0.26.0", LLAMA)
    assert (done.steps, done.files, done.findings) == ((), {}, ())
    assert done.text.splitlines() == [f"{key}={value}" for key, value in values.items()]


@pytest.mark.parametrize("target", ["0.29.0", "0.33.0", "0.36.0-lmi20", "0.36.0-lmi27"])
@pytest.mark.parametrize(
    "values",
    [
        {"engine": "FasterTransformer", "option.tensor_parallel_degree": "4", "option.s3url": "s3://b/flan-t5-xxl/"},
        {"engine": "DeepSpeed", "option.model_id": "google/flan-t5-xl", "option.max_tokens": "512",
         "option.enable_cuda_graph": "false", "option.dtype": "bf16"},
        {"engine": "MPI", "option.rolling_batch": "lmi-dist", "option.model_id": "google/flan-t5-xl"},
    ],
    ids=["fastertransformer", "deepspeed", "lmi-dist"],
)  # fmt: skip
def test_every_old_t5_file_becomes_one_that_the_target_serves(values: dict[str, str], target: str) -> None:
    source = "0.24.0" if values["engine"] == "FasterTransformer" else "0.26.0"
    if values["engine"] == "MPI" and target == "0.29.0":
        pytest.skip("lmi-dist still serves T5 in 0.29.0")
    done = _migrated(values, source, target, T5, replace=True)
    assert _errors(done) == []
    assert "engine=Python" in done.text
    assert "option.entryPoint=djl_python.huggingface" in done.text
    assert "option.rolling_batch=disable" in done.text
    assert ("requirements.txt" in done.files) == target.endswith("lmi27")


def test_a_decoder_on_lmi_dist_moves_to_vllm_under_engine_python() -> None:
    values = {
        "engine": "MPI",
        "option.rolling_batch": "lmi-dist",
        "option.max_cpu_loras": "4",
        "option.record_acceptance_rate": "true",
    }
    done = _migrated(values, "0.30.0", "0.33.0", LLAMA)
    assert done.text.splitlines() == ["engine=Python", "option.rolling_batch=vllm", "option.max_cpu_loras=4"]
    assert _errors(done) == []


def test_mpi_left_to_an_image_that_picks_vllm_becomes_python() -> None:
    done = _migrated({"engine": "MPI", "option.model_id": "m", "option.mpi_mode": "true"}, "0.27.0", "0.36.0", LLAMA)
    assert done.text == "engine=Python\noption.model_id=m\n"


def test_t5_under_mpi_becomes_python_where_lmi_dist_is_gone() -> None:
    values = {
        "engine": "MPI",
        "option.model_id": "google/flan-t5-xxl",
        "option.tensor_parallel_degree": "4",
        "option.rolling_batch": "lmi-dist",
    }
    done = _migrated(values, "0.27.0", "0.33.0-lmi15", ModelFacts())
    assert done.text.splitlines() == [
        "engine=Python",
        "option.model_id=google/flan-t5-xxl",
        "option.tensor_parallel_degree=4",
        "option.rolling_batch=disable",
        "option.device_map=auto",
        "option.entryPoint=djl_python.huggingface",
    ]
    assert _migrated(values, "0.26.0", "0.31.0-lmi", ModelFacts()).steps == ()


@pytest.mark.parametrize(
    ("entry", "script"), [("inference.py", ""), ("https://host/model.py", ""), ("", "def handle(inputs): ...")]
)
def test_a_handler_of_ones_own_stays(entry: str, script: str) -> None:
    values = {"engine": "DeepSpeed", **({"option.entryPoint": entry} if entry else {}), "option.dtype": "bf16"}
    source, target = parse_container("0.23.0-deepspeed"), parse_container("0.31.0-lmi")
    done = migrate(values, source, target, LLAMA, replace_engine=True, script=script)
    assert [(step.key, step.after) for step in done.steps] == [("engine", "Python")]
    assert _errors(done) == []


def test_neuronx_8_bits_keep_a_name_that_the_target_knows() -> None:
    tnx = {"engine": "Python", "option.entryPoint": "djl_python.transformers_neuronx"}
    assert _migrated({**tnx, "option.load_in_8bit": "true"}, "0.27.0-neuronx", "0.29.0-neuronx", LLAMA).steps == ()
    done = _migrated({**tnx, "option.quantize": "bitsandbytes8"}, "0.25.0-neuronx", "0.29.0-neuronx", LLAMA)
    assert "option.quantize=static_int8" in done.text


def test_a_successor_that_the_target_does_not_know_is_not_written() -> None:
    values = {"option.entryPoint": "djl_python.huggingface", "option.load_in_8bit": "true", "option.device_map": "auto"}
    assert _migrated(values, "0.26.0", "0.24.0", LLAMA).steps == ()
    assert "option.quantize=bitsandbytes8" in _migrated(values, "0.24.0", "0.26.0", LLAMA).text


def test_what_only_the_old_backend_took_is_left_out() -> None:
    values = {"engine": "MPI", "option.model_id": "m", "option.baichuan_model_version": "v2_13b"}
    done = _migrated(values, "0.27.0-tensorrtllm", "0.30.0-lmi", LLAMA)
    assert "baichuan" not in done.text
    assert _migrated(values, "0.27.0-tensorrtllm", "0.30.0-tensorrtllm", LLAMA).steps == ()


def test_going_back_drops_what_is_not_known_yet() -> None:
    values = {"engine": "Python", "option.rolling_batch": "disable", "option.tgi_compat": "true"}
    done = _migrated(values, "0.29.0", "0.26.0", LLAMA)
    assert {step.key: step.why for step in done.steps} == {
        "option.rolling_batch": "disable: before it any value turned rolling batch on: leave the key out",
        "option.tgi_compat": "first read by 0.28.0",
    }


def test_a_handler_is_respelled_and_a_lost_one_refused() -> None:
    values = {"option.entryPoint": "djl_python.transformers-neuronx"}
    done = _migrated(values, "0.23.0", "0.27.0", LLAMA)
    assert done.text == "option.entryPoint=djl_python.transformers_neuronx\n"
    with pytest.raises(
        UsageError, match=r"last container 0\.34\.0, asked for 0\.36\.0-lmi20; NeuronX support was removed"
    ):
        _migrated({"option.entryPoint": "djl_python.transformers_neuronx"}, "0.28.0", "0.36.0-lmi20", LLAMA)


def test_a_key_that_was_wrong_before_stays_and_is_reported() -> None:
    done = _migrated({"engine": "Python", "batchsize": "4"}, "0.26.0", "0.28.0", LLAMA)
    assert "batchsize=4" in done.text
    assert "did you mean 'batch_size'?" in _errors(done)[0]


def test_our_own_server_is_no_target() -> None:
    with pytest.raises(UsageError, match="migration goes between DJL container versions"):
        _migrated({}, "0.26.0", "dynamometer-0.1", T5)
