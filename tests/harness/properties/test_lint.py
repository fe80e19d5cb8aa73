"""What the linter says, per container version; the traps are those of java.util.Properties and of published files."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.properties.lint.findings import lint
from harness.properties.lint.records import Finding, ModelFacts

PUBLISHED = (
    "engine=FasterTransformer\n"
    "option.entryPoint=djl_python.fastertransformer\n"
    "option.tensor_parallel_degree=4\n"
    "option.s3url=s3://bucket/flan-t5-xxl/\n"
)


def _errors(text: str, container: str, **model: object) -> list[str]:
    facts = ModelFacts(**model)  # type: ignore[arg-type]
    return [f"{f.line} {f.key}: {f.message}" for f in lint(text, container, facts) if f.severity == "error"]


def _one(text: str, container: str = "0.28.0", **model: object) -> str:
    (found,) = _errors(text, container, **model)
    return found


def test_the_published_file_is_clean_for_its_own_container() -> None:
    assert lint(PUBLISHED, "0.21.0") == []
    assert lint(PUBLISHED, "0.21.0-fastertransformer5.3.0-cu117") == []


def test_the_published_file_is_retired_today_and_a_living_one_is_proposed() -> None:
    found = "\n".join(_errors(PUBLISHED, "0.36.0-lmi20"))
    assert "engine=FasterTransformer is retired: last container 0.24.0" in found
    assert "write option.model_id instead" in found
    assert "vLLM does not serve T5" in found
    assert "option.rolling_batch=disable" in found
    living = (
        "engine=Python\noption.entryPoint=djl_python.huggingface\noption.rolling_batch=disable\n"
        "option.model_id=s3://bucket/flan-t5-xxl/\noption.dtype=bf16\nbatch_size=4\n"
    )
    assert lint(living, "0.36.0-lmi20") == []
    assert "transformers 5" in _one(living, "0.36.0-lmi27")


def test_findings_come_with_line_key_and_severity() -> None:
    (found,) = lint("engine=Python\n\n# comment\nbatch_sise=4\n", "0.28.0")
    assert found == Finding(
        line=4,
        key="batch_sise",
        severity="error",
        message="unknown key in 0.28.0; the server does not read it; did you mean 'batch_size'?",
    )


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("option.tensor_paralel_degree=4", "did you mean 'option.tensor_parallel_degree'?"),
        ("option.modelid=x", "no version reads option.modelid"),
        ("tensor_parallel_degree=4", "did you mean 'option.tensor_parallel_degree'?"),
        ("BATCH_SIZE=4", "did you mean 'batch_size'?"),
        ("option.nothing_like_it=4", "would be ignored without a word"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_known_one(line: str, output: str) -> None:
    assert output in _one(f"engine=Python\n{line}\n")


@pytest.mark.parametrize(
    ("line", "container", "output"),
    [
        ("option.s3url=s3://b/x", "0.27.0", "retired: last read by 0.26.0"),
        ("option.rolling_batch=disable", "0.22.1", "not known yet: first read by 0.23.0"),
        ("option.rolling_batch=lmi-dist", "0.33.0", "retired: last container 0.32.0"),
        ("option.rolling_batch=vllm", "0.20.0", "not known yet"),
        ("option.rolling_batch=disable", "0.24.0", "before it any value turned rolling batch on"),
        ("option.async_mode=true", "0.28.0", "not known yet: first read by 0.33.0"),
        ("engine=DeepSpeed", "0.28.0", "retired: last container 0.27.0"),
        ("engine=MPI", "0.21.0", "not known yet: first container 0.23.0"),
    ],
)
def test_keys_and_values_come_and_go_with_versions(line: str, container: str, output: str) -> None:
    assert any(output in error for error in _errors(line + "\n", container))


def test_an_engine_of_another_image_is_refused_where_the_image_was_named() -> None:
    assert "needs the fastertransformer image" in _one("engine=FasterTransformer\n", "0.24.0-deepspeed")
    assert _errors("engine=FasterTransformer\n", "0.24.0") == []


def test_the_misprinted_rolling_batch_of_a_published_notebook() -> None:
    text = "engine=MPI\noption.rolling_batch=lmi - dist\n"
    assert _one(text, "0.26.0").endswith("unknown option.rolling_batch 'lmi - dist'; did you mean 'lmi-dist'?")


@pytest.mark.parametrize(
    ("text", "line", "output"),
    [
        ("batch_size=4 \n", 1, "trailing blanks belong to the value: Java reads '4 '"),
        ("batch_size=4 # four\n", 1, "there are no inline comments: Java reads '4 # four'"),
        ("batch_size=4\nbatch_size=8\n", 2, "already set in line 1: Java keeps the last one"),
        ("option.model_id=C:\\temp\\new\n", 1, "backslash is an escape"),
        ("option.model_id=\\\\server\\models\n", 1, "Java drops the backslash before 'm'"),
        ("batch size=4\n", 1, "a blank inside the key ends it: Java reads 'batch' with value 'size=4'"),
        ("batch_size 4\n", 1, "no '=' sign"),
        ("option.model_id=\\u12\n", 1, "Java refuses the file"),
    ],
)
def test_syntax_that_java_reads_otherwise(text: str, line: int, output: str) -> None:
    found = [f for f in lint(text, "0.28.0") if f.severity == "error" and output in f.message]
    assert found
    assert found[0].line == line


def test_what_java_reads_as_written_is_no_finding() -> None:
    text = (
        "# a comment # with another\n! and this\nengine = Python\noption.model_id: google/flan-t5-base\n"
        "option.entryPoint=djl_python.hugging\\\n    face\noption.rolling_batch=disable\noption.env=A\\=B\n"
        'option.stop_sequence=["\\\\n"]\n'
    )
    assert lint(text, "0.28.0") == []


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("batch_size=four", "expected a whole number >= 1, got 'four'"),
        ("job_queue_size=0", "expected a whole number >= 1, got 0"),
        ("batch_size=1_0", "expected a whole number >= 1, got '1_0'"),
        ("batch_size=2147483648", "expected a whole number >= 1 up to 2147483647"),
        ("option.dtype=fp8", "expected one of fp32"),
        ("option.tensor_parallel_degree=all", "or max"),
        ("option.trust_remote_code=ja", "expected true or false"),
        ("option.parallel_loading=yes", "expected true or false"),
        ("load_on_devices=0,1", "expected devices separated by ';'"),
    ],
)
def test_values_outside_type_or_range(line: str, output: str) -> None:
    assert output in _one(line + "\n")


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("batch_size=0\n", "got 0: the server computes one request at a time"),
        ("max_batch_delay=-1\n", "got -1: the server waits no time"),
        ("option.predict_timeout=60s\n", "got '60s': the server logs it and keeps its default"),
        ("maxWorkers=1\nminWorkers=2\n", "below minWorkers=2: the server lowers minWorkers to 1"),
        ("option.entryPoint=mine.py\n", "ends at start unless mine.py is beside the file"),
    ],
)
def test_values_that_the_server_takes_otherwise_than_written_are_warnings(text: str, output: str) -> None:
    (found,) = lint(text, "0.28.0")
    assert found.severity == "warning"
    assert output in found.message


def test_our_own_server_refuses_what_djl_serving_takes_otherwise() -> None:
    text = "engine=Python\noption.entryPoint=engines.fake\nbatch_size=0\nmaxWorkers=1\nminWorkers=2\n"
    errors = _errors(text, "dynamometer-0.1")
    assert len(errors) == 2
    assert "expected a whole number >= 1, got 0" in errors[0]
    assert "below minWorkers=2: the server refuses the model" in errors[1]


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("batch_size=4\noption.rolling_batch=auto\n", "excludes option.rolling_batch=auto"),
        ("batch_size=2\noption.enable_streaming=true\n", "refused with streaming"),
        ("option.quantize=bitsandbytes8\noption.entryPoint=djl_python.huggingface\n", "option.device_map=auto"),
    ],
)
def test_values_that_exclude_each_other(text: str, output: str) -> None:
    assert output in _one(text)


def test_s3url_excludes_model_id() -> None:
    assert "excludes option.model_id" in _one("option.s3url=s3://b/x\noption.model_id=x\n", "0.25.0")


def test_t5_on_vllm_is_refused() -> None:
    text = "engine=Python\noption.model_id=google/flan-t5-xl\noption.rolling_batch=vllm\n"
    assert "vLLM does not serve T5" in _one(text, "0.35.0")
    assert _errors(text.replace("flan-t5-xl", "gemma-2b"), "0.35.0") == []


def test_tensor_parallel_degree_must_divide_the_heads() -> None:
    assert "3 does not divide the model's 64 heads" in _one("option.tensor_parallel_degree=3\n", heads=64)
    assert _errors("option.tensor_parallel_degree=4\n", "0.28.0", heads=64) == []


def test_fp16_t5_is_a_warning() -> None:
    text = (
        "engine=Python\noption.model_id=t5-11b\noption.dtype=fp16\n"
        "option.entryPoint=djl_python.huggingface\noption.rolling_batch=disable\n"
    )
    (found,) = lint(text, "0.28.0")
    assert found.severity == "warning"
    assert "65504" in found.message


def test_a_key_of_another_handler_is_a_warning() -> None:
    text = (
        "engine=Python\noption.entryPoint=djl_python.huggingface\noption.rolling_batch=disable\noption.n_positions=9\n"
    )
    (found,) = lint(text, "0.28.0")
    assert found.severity == "warning"
    assert "neuronx handler only, not by huggingface" in found.message


def test_options_of_a_script_of_ones_own_are_known_where_the_script_names_them() -> None:
    text = "engine=Python\noption.entryPoint=model.py\noption.beams=4\n"
    (found,) = lint(text, "0.28.0")
    assert found.severity == "warning"
    assert lint(text, "0.28.0", script='beams = int(properties["beams"])') == []


def test_vllm_takes_any_engine_argument_since_0_32() -> None:
    text = "engine=Python\noption.rolling_batch=vllm\noption.model_id=x/y\noption.some_engine_arg=1\n"
    (found,) = lint(text, "0.32.0")
    assert found.severity == "warning"
    assert "unknown key" in _one(text, "0.28.0")


TNX = (
    "engine=Python\noption.entryPoint=djl_python.transformers_neuronx\noption.model_id=x/y\n"
    "option.tensor_parallel_degree=2\noption.n_positions=512\noption.rolling_batch=auto\n"
)
LMI_DIST = "engine=MPI\noption.model_id=x/y\noption.rolling_batch=lmi-dist\n"
VLLM = "engine=Python\noption.model_id=x/y\noption.rolling_batch=vllm\n"


@pytest.mark.parametrize(
    ("container", "text"),
    [
        ("0.23.0", f"{LMI_DIST}option.paged_attention=true\n"),
        ("0.35.0", "engine=Python\noption.entryPoint=djl_python.sklearn_handler\noption.model_format=skops\n"),
        ("0.27.0-neuronx", f"{TNX}option.enable_mixed_precision_accumulation=true\noption.amp=f16\n"),
        ("0.25.0-neuronx", f"{TNX}option.batch_size=4\noption.quantize=bitsandbytes8\n"),
        ("0.30.0-lmi", f"{LMI_DIST}option.tokenizer_mode=mistral\noption.limit_mm_per_prompt=image=4\n"),
        ("0.30.0-lmi", f"{LMI_DIST}option.max_cpu_loras=8\noption.quantize=marlin\n"),
        ("0.30.0-lmi", f"{VLLM}option.use_v2_block_manager=true\noption.num_speculative_tokens=4\n"),
        ("0.27.0-tensorrtllm", "engine=MPI\noption.model_id=x/y\noption.baichuan_model_version=v2_13b\n"),
        ("0.36.0-lmi20", f"{VLLM}option.lora_dtype=bfloat16\noption.block_size=32\noption.cpu_offload_gb=2\n"),
        ("0.36.0-lmi18", 'engine=Python\noption.model_id=x/y\noption.kv_transfer_config={"a": {"b": 1}}\n'),
        ("0.33.0-lmi15", "option.model_id=x/y\noption.rolling_batch=auto\noption.tokenizer_mode=mistral\n"),
        ("0.23.0", "engine=Python\noption.model_id=x/y\noption.enable_streaming=True\n"),
        ("0.36.0-lmi20", "engine=Python\noption.model_id=x/y\noption.enable_streaming=Huggingface\n"),
        ("0.27.0-tensorrtllm", "option.model_id=google/flan-t5-xl\n"),
        ("0.24.0", "engine=MPI\noption.model_id=google/flan-t5-xl\noption.rolling_batch=auto\n"),
        ("0.31.0", "option.model_id=x/bge-reranker\nbatch_size=32\nreranking=true\n"),
        ("0.36.0-cpu-full", "option.model_id=google/flan-t5-small\n"),
        ("0.30.0-lmi", f"{VLLM}option.task=text-generation\n"),
        ("0.22.1-neuronx", "option.entryPoint=djl_python.transformers-neuronx\noption.dtype=f32\n"),
        ("0.29.0-neuronx", f"{TNX.replace('auto', 'disable')}batch_size=2\noption.enable_streaming=true\n"),
        ("0.21.0-fastertransformer", "engine=FasterTransformer\noption.model_id=x/y\noption.dtype=fp16\n"),
        ("0.25.0-tensorrtllm", "engine=MPI\noption.model_id=x/y\noption.quantize=smoothquant\n"),
        ("0.30.0", "engine=PyTorch\ntranslatorFactory=a.B\npadding=true\noption.mapLocation=true\n"),
    ],
)
def test_what_the_container_reads_is_no_error(container: str, text: str) -> None:
    assert _errors(text, container) == []


@pytest.mark.parametrize(
    ("container", "line", "output"),
    [
        ("0.36.0-lmi20", "option.tensor_paralel_degree=4", "did you mean 'option.tensor_parallel_degree'?"),
        ("0.36.0-lmi20", "option.maxModelLen=4096", "did you mean 'option.max_model_len'?"),
        ("0.36.0-lmi18", "option.lmcache_auto_config=true", "not known yet: first read by 0.36.0-lmi19"),
        ("0.33.0-lmi15", "engine=Python\nfail_fast=true", "the server does not read it"),
        ("0.33.0-lmi15", "option.modelid=y", "no version reads option.modelid"),
        ("0.36.0-lmi20", "option.rolling_batch=vllm\noption.mode_id=y", "did you mean 'option.model_id'?"),
        ("0.27.0", "option.rolling_batch=lmi-dist\noption.quantize=marlin", "expected one of awq, gptq, squeezellm"),
        ("0.20.0", "batch_size=4", "not known yet: first read by 0.21.0"),
        ("0.36.0-lmi20", "engine=MPI", "write engine=Python"),
        ("0.29.0-lmi", "option.rolling_batch=vllm\nengine=MPI", "write engine=Python"),
    ],
)
def test_what_the_container_does_not_read_stays_an_error(container: str, line: str, output: str) -> None:
    text = f"option.model_id=x/y\n{line}\n"
    if container == "0.36.0-lmi18":
        text += "option.rolling_batch=disable\noption.entryPoint=djl_python.huggingface\n"
    assert output in _one(text, container)


@pytest.mark.parametrize(
    "value", ["{{s3url}}", "{{ model.id }}", "{% if x %}a{% endif %}", "${MODEL}", "{model}", "<model>"]
)
def test_a_template_that_nobody_filled_in_is_an_error(value: str) -> None:
    assert "template that nobody has filled in" in _one(f"engine=Python\noption.model_id={value}\n", "0.24.0")
    assert _errors(f"option.model_id=x\noption.chat_template={value}\n", "0.36.0-lmi20") == []


def test_a_retired_key_is_an_error_also_where_vllm_takes_what_it_knows() -> None:
    assert "write option.model_id instead" in _one("option.s3url=s3://b/x\n", "0.36.0-lmi20")


def test_json_is_no_template() -> None:
    assert _errors('option.model_id=x\noption.speculative_config={"a": {"b": {}}}\n', "0.36.0-lmi20") == []


def test_blanks_around_the_sign_are_an_error_where_the_converter_keeps_them() -> None:
    text = "engine = MPI\noption.model_id=x/y\noption.tensor_parallel_degree= 8\n"
    assert "blanks around '=' (lines 1, 3)" in _one(text, "0.25.0-tensorrtllm")
    assert _errors(text, "0.26.0-tensorrtllm") == _errors(text, "0.25.0-deepspeed") == []


@pytest.mark.parametrize("text", ["engine=Python\noption.entryPoint=model.py\n", "engine=Python\n"])
def test_a_script_of_ones_own_may_read_what_no_handler_reads(text: str) -> None:
    text += "option.model_id=x/y\noption.device_map=auto\noption.beams=4\n"
    reading = "def handle(inputs):\n    return properties['beams'], properties['device_map']"
    assert lint(text, "0.27.0-deepspeed", script=reading) == []
    messages = [finding.message for finding in lint(text, "0.27.0-deepspeed", script="def handle(inputs): ...")]
    assert len(messages) == 2
    assert all("only your own script can read it" in message for message in messages)


def test_our_own_server_ignores_what_the_hugging_face_handler_would_read() -> None:
    text = "engine=Python\noption.entryPoint=djl_python.huggingface\noption.device_map=auto\n"
    (found,) = lint(text, "dynamometer-0.1")
    assert found.severity == "warning"
    assert "an option of engine accelerate" in _one(
        text.replace("device_map=auto", "max_gpu_memory_mib=9"), "dynamometer-0.1"
    )


def test_our_own_server_wants_an_entry_point() -> None:
    assert "missing: name the engine" in _one("engine=Python\n", "dynamometer-0.1")
    assert _errors("engine=Python\noption.entryPoint=engines.ctranslate2\n", "dynamometer-0.1") == []


def test_an_unknown_container_is_a_usage_error_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown container '0.37.0'.*did you mean '0.38.0'"):
        lint("engine=Python\n", "0.37.0")


STARTER = "engine=Python\noption.model_id=x/llama\noption.tensor_parallel_degree=1\n"


def test_what_an_lmi_image_does_by_itself_is_a_hint() -> None:
    (found,) = lint(STARTER, "0.36.0-lmi27")
    assert (found.severity, found.key, found.line) == ("hint", "option.max_rolling_batch_size", 0)
    assert "LMI 27 (vLLM 0.23.1)" in found.message
    assert "read in source of 2026-06-24, not run" in found.message


@pytest.mark.parametrize(
    ("more", "container"),
    [
        ("option.max_rolling_batch_size=64\n", "0.36.0-lmi27"),
        ("option.max_num_seqs=64\n", "0.36.0-lmi27"),
        ("option.rolling_batch=vllm\n", "0.36.0-lmi27"),
        ("", "0.34.0"),
    ],
)
def test_there_is_no_hint_where_the_file_or_the_image_settles_it(more: str, container: str) -> None:
    assert [found for found in lint(STARTER + more, container) if found.severity == "hint"] == []
