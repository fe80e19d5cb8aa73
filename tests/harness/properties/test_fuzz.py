"""Whatever a serving.properties file or an environment holds, it is read, checked, or refused as documented.

`DYNO_FUZZ_EXAMPLES` sets the number of examples of each test (200 by default).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from engines.errors import SpecInvalid
from engines.serving_properties.java_text import PropertiesSyntaxError, format_properties, parse_properties
from engines.serving_properties.read import SERVER_KEYS, read_serving, read_text
from engines.serving_properties.write import spec_to_properties
from harness.errors import UsageError
from harness.properties.containers import container_names, parse_container
from harness.properties.environment_variables import (
    MAX_BYTES,
    MAX_ENTRIES,
    from_environment,
    parse_environment,
    to_environment,
)
from harness.properties.key_rules import key_rules
from harness.properties.lint.findings import lint
from harness.properties.lint.records import ModelFacts, Place, model_facts
from tests.harness.mutations import FUZZ, PLACE, as_cell, check_sentence, placed, torn, values

PROPERTIES: list[dict[str, str]] = [
    {"engine": "Python", "option.model_id": "x/y", "option.dtype": "fp16", "option.enable_streaming": "True"},
    {"engine": "MPI", "option.model_id": "x/falcon", "option.tensor_parallel_degree": "4",
     "option.rolling_batch": "lmi-dist"},
    {"engine": "Python", "option.entryPoint": "djl_python.huggingface", "option.model_id": "a/flan-t5",
     "option.device_map": "auto", "batch_size": "4", "max_batch_delay": "5", "minWorkers": "1", "maxWorkers": "2"},
    {"engine": "Python", "option.s3url": "{{s3url}}", "option.tensor_parallel_degree": "2", "load_on_devices": "*"},
    {"engine": "DynamometerT5", "option.dtype": "int8", "option.threads": "2", "job_queue_size": "10",
     "retry_threshold": "0"},
    {"engine": "Python", "option.kv_transfer_config": '{"kv_connector": "x"}', "option.rolling_batch": "vllm"},
    {"option.entryPoint": "engines.t5", "option.dtype": "fp32", "gpu.minWorkers": "2", "gpu.maxWorkers": "3",
     "option.rolling_batch": "auto", "max_dynamic_batch_size": "4", "load_on_devices": "gpu1"},
    {"engine": "Python", "option.model_id": "google/flan-t5-xl", "option.rolling_batch": "auto",
     "option.quantize": "bitsandbytes8", "option.predict_timeout": "240", "batch_size": "8"},
    {"engine": "PyTorch", "translatorFactory": "x", "width": "224"},
]  # fmt: skip
PUBLIC = json.loads((Path(__file__).parent / "public_files.json").read_text(encoding="utf-8"))["files"]
CONTAINERS = sorted(
    {"dynamometer-0.1", "0.36.0-lmi20", "0.36.0-lmi25", "0.36.0", "0.29.0", "0.34.0-lmi"}
    | {row["container"] for row in PUBLIC}
)
KEYS = sorted({key for name in ("dynamometer-0.1", "0.36.0") for key in key_rules(parse_container(name))})
VALUES = [
    "", "1", "0", "-1", "2", "8", "1.5", "max", "True", "true", "false", "yes", "vllm", "lmi-dist", "auto", "trtllm",
    "scheduler", "disable", "neuronx-cc", "MPI", "Python", "DeepSpeed", "deepspeed", "PyTorch",
    "djl_python.huggingface",
    "djl_python.deepspeed", "djl_python.lmi_vllm.vllm_async_service", "djl_python.hugingface", "engines.t5",
    "engines.T5", "model.py", "other.py", "/usr/bin/nothing", "smoothquant", "bitsandbytes4", "awq", "bf16", "fp16",
    "gpu0;gpu1", "0;1", "nc0", "*", "cpu", "google/flan-t5-xl", "s3://b/mt5", "{{model}}", "${MODEL}", "<model>", "[1",
    "{}", "[" * 9999, "9" * 20, "9" * 5000, "1,2,x", "1,2", "\u00b2", "a #b", "C:\\temp\\new", "x ", "r\u00e9", "300",
]  # fmt: skip
FIELDS = st.tuples(
    st.sampled_from([*KEYS, *SERVER_KEYS, "gpu.minWorkers", "nc.maxWorkers", "optoin.x", "option.model-id", "x y"]),
    st.sampled_from(VALUES),
)
FORMS = ("{}={}", "{} = {}", "{}:{}", "{} {}", "\t{}\t=\t{} ", "{}={} # note", "#{}={}", "{}=\\\n  {}", "{}\\:={}\\q")


def _lines(value: Any, form: str) -> str:
    """Mutated keys and values as lines of one form."""
    pairs: Sequence[tuple[Any, Any]] = list(value.items()) if isinstance(value, dict) else [("x", value)]
    return "\n".join(form.format(key, as_cell(each)) for key, each in pairs)


@st.composite
def _texts(draw: st.DrawFn) -> bytes:
    """A valid file after changes of its values, of its form, and with some keys of the table added."""
    form = draw(st.sampled_from(["{}={}", *FORMS]))
    text = draw(
        st.one_of(
            values(PROPERTIES).map(lambda value: _lines(value, form)),
            st.sampled_from(PUBLIC).map(lambda row: _lines(dict(row["values"]), form)),
            st.sampled_from(PROPERTIES).map(format_properties),
        )
    )
    added = draw(st.lists(st.tuples(FIELDS, st.sampled_from(["{}={}", "{}={}", *FORMS])), max_size=5))
    lines = "\n".join(each.format(*field) for field, each in added)
    return f"{text}\n{lines}".encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Around:
    """What lies around the file: its container, model, handler, pinned packages, and the machine."""

    container: str
    model: ModelFacts | None = None
    script: str = ""
    requirements: str = ""
    place: Place | None = None


SEEDS: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    ("dynamometer-0.1", {"option.entryPoint": "engines.t5", "batch_size": "2", "option.rolling_batch": "auto"}, {}),
    ("dynamometer-0.1", {"minWorkers": "3", "maxWorkers": "2", "option.num_beams": "2"}, {}),
    ("dynamometer-0.1", {"option.entryPoint": "engines.T 5", "option.gpu_memory_utilization": "2"}, {}),
    ("0.29.0", {"option.s3url": "s3://a", "option.model_id": "b", "minWorkers": "3", "maxWorkers": "2"}, {}),
    ("0.29.0", {"max_dynamic_batch_size": "4", "batch_size": "4", "option.enable_streaming": "true"}, {}),
    ("0.36.0-lmi20", {"option.enable_lora": "true", "maxWorkers": "2"}, {}),
    ("0.36.0-lmi20", {"option.tensor_parallel_degree": "3", "option.tensor_parallel_size": "2"}, {"heads": 8}),
    ("0.29.0", {"option.tensor_parallel_degree": "0"}, {"heads": 8}),
    ("0.29.0-lmi", {"batch_size": "8", "option.rolling_batch": "vllm"}, {}),
    ("0.36.0-lmi20", {"option.max_rolling_batch_size": "9", "job_queue_size": "2", "option.async_mode": "true",
                      "option.rolling_batch": "vllm", "option.pipeline_parallel_degree": "2", "engine": "MPI"}, {}),
    ("0.27.0-deepspeed", {"option.quantize": "smoothquant", "option.dtype": "bf16", "engine": "DeepSpeed"}, {}),
    ("0.29.0", {"option.quantize": "bitsandbytes8", "option.entryPoint": "djl_python.huggingface"}, {}),
    ("0.29.0", {"engine": "DeepSpeed", "option.dtype": "fp16"}, {"family": "t5"}),
    ("0.36.0-lmi25", {"engine": "DeepSpeed", "option.rolling_batch": "auto"}, {"family": "t5"}),
    ("0.36.0-lmi25", {"option.entryPoint": "djl_python.huggingface"}, {"family": "t5"}),
    ("0.27.0-tensorrtllm", {"option.model_id": "google/flan-t5-xl"}, {}),
    ("0.25.0-tensorrtllm", {"option.dtype ": "fp16"}, {}),
    ("0.29.0", {"load_on_devices": "0;gpu3", "required_memory_mb": "9999", "gpu.reserved_memory_mb": "1",
                "option.pythonExecutable": "/no", "option.entryPoint": "other.py", "option.predict_timeout": "99"}, {}),
    ("0.29.0", {"engine": "PyTorch", "option.mapLocation": "true", "width": "1", "option.bach_size": "1"}, {}),
    ("0.36.0", {"option.use_kv_cache": "1", "option.speculative_config": "{", "option.tgi_compat": "Tru"}, {}),
    ("0.23.0-neuronx", {"option.n_positions": "x", "option.load_split_model": "1", "option.n_positions ": "1,x"}, {}),
    ("0.29.0", {"option.model_id": "C:\\\\temp", "option.revision": "x  ", "option.task": "\\u00e9"}, {}),
    ("0.29.0", {"option.model_id": "C:\\temp\\new", "option.dtype": "C:\temp", "option.task": "a\tb\\q"}, {}),
]  # fmt: skip
"""(container, values, what is known of the model): the combinations that a rule speaks of."""


def _with_every_seed(test: Callable[..., None]) -> Callable[..., None]:
    """`test` with each of SEEDS among its examples, on any machine, on this one, and beside a script."""
    for container, fields, model in SEEDS:
        data = "\n".join(f"{key}={value}" for key, value in fields.items()).encode("latin-1")
        for script, place in (("", None), ("", HERE), ("print('mapLocation')", None), ("x", HERE)):
            around = Around(container, model=ModelFacts(**model), script=script, place=place)
            test = example(data=data, around=around)(test)
    return test


HERE = Place(folder=PLACE, gpus=1, memory_mib=1000)
AROUND = st.builds(
    Around,
    container=st.sampled_from(CONTAINERS),
    model=st.builds(
        ModelFacts, family=st.sampled_from(["", "t5", "llama"]), heads=st.sampled_from([None, 1, 6, 8, 0, -3, 10**12])
    ),
    script=st.sampled_from(["", "", "print('dtype')", "from djl_python import x; rolling_batch"]),
    requirements=st.sampled_from(["", "transformers<5", "torch\ntransformers==4.57.1"]),
    place=st.one_of(
        st.none(),
        st.builds(Place, folder=st.just(PLACE), gpus=st.sampled_from([0, 2]), memory_mib=st.sampled_from([1, 1 << 20])),
    ),
)


@_with_every_seed
@FUZZ
@given(data=st.one_of(_texts(), torn(_texts())), around=AROUND)
@example(data=b"option.speculative_config=" + b"[" * 99_999, around=Around("0.36.0-lmi20"))
@example(data=b"option.tensor_parallel_degree=7", around=Around("0.29.0", model=ModelFacts(heads=10**15)))
@example(data=b"\\u12", around=Around("0.29.0"))
@example(data=b"a=\\uzzzz", around=Around("0.29.0"))
@example(data=b"required_memory_mb=" + b"9" * 5000, around=Around("0.29.0", place=HERE))
@example(data=b"load_on_devices=gpu" + b"9" * 5000, around=Around("0.29.0"))
def test_a_mutated_file_is_checked(data: bytes, around: Around) -> None:
    text = data.decode("latin-1")
    findings = lint(text, **{name: getattr(around, name) for name in Around.__dataclass_fields__})
    assert findings == sorted(findings, key=lambda finding: (finding.line, finding.severity, finding.key))
    assert len(set(findings)) == len(findings)
    for finding in findings:
        assert finding.message
        assert finding.severity in ("error", "warning", "hint")
        assert 0 <= finding.line <= len(text) + 1
    try:
        given_values = parse_properties(text)
    except PropertiesSyntaxError:
        assert [(finding.severity, finding.line > 0) for finding in findings] == [("error", True)]
        return
    written = format_properties(given_values)
    assert parse_properties(written) == given_values
    assert written.isascii()
    assert not any(line.endswith(" ") for line in written.splitlines())
    assert parse_properties("\r\n".join(written.splitlines())) == given_values
    assert all(finding.key in ("", *given_values) for finding in findings if finding.line)


@FUZZ
@given(given_values=st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=4))
@example(given_values={"a\\": "b", "c=": " d ", "#e": "\\u", "": "\r\n"})
def test_any_values_are_written_and_read_back(given_values: dict[str, str]) -> None:
    assert parse_properties(format_properties(given_values)) == given_values


@FUZZ
@given(data=st.one_of(_texts(), torn(_texts())), device=st.sampled_from(["cpu", "cuda"]))
@example(data=b"batch_size=" + b"9" * 5000, device="cpu")
@example(data=b"load_on_devices=\xb2", device="cpu")
@example(data=b"\\u12", device="cpu")
@example(data=b"minWorkers=3\nmaxWorkers=2", device="cpu")
@example(data=b"batch_size=0", device="cpu")
@example(data=b"engine=Java", device="cpu")
def test_our_server_reads_a_mutated_file_or_refuses_it(data: bytes, device: str) -> None:
    text = read_text(placed(data))
    try:
        serving = read_serving(text, Path("model"), lambda engine: device)
    except SpecInvalid as error:
        str(error).encode("utf-8", "surrogatepass")
        return
    spec, settings = serving.spec, serving.settings
    assert spec.batch_size >= 1
    assert spec.workers >= max(1, settings.min_workers or 1)
    assert spec.rolling_batch == "disable" or spec.batch_size == 1
    assert re.fullmatch(r"cpu|cuda(:[0-9]+)?", spec.device)
    assert min(settings.predict_timeout_s, settings.model_loading_timeout_s, settings.max_request_size_bytes) >= 1
    if not any(isinstance(value, float) for value in spec.options.values()):
        again = read_serving(spec_to_properties(spec, 60.0), Path("model"), lambda engine: device).spec
        assert again == spec


ENVIRONMENTS = [
    {"SERVING_MIN_WORKERS": "1", "OPTION_MODEL_ID": "x/y", "SERVING_FAIL_FAST": "true", "HF_MODEL_ID": "x"},
    {"OPTION_ENTRYPOINT": "djl_python.huggingface", "SERVING_LOAD_MODELS": "test::Python=/opt/ml/model"},
    {"OPTION_pythonExecutable": "/p", "ARGS_WIDTH": "3", "OPTION_": "x", "OPTION_ENGINE": "MPI", "ARGS_X": ""},
    {"SAGEMAKER_NUM_MODEL_WORKERS": "2", "SAGEMAKER_STARTUP_TIMEOUT": "9", "SERVING_BATCH_SIZE": "4"},
    {"ENABLE_CUDA_GRAPHS": "true", "CUDA_MEMORY_FRACTION": "0.9", "TENSOR_PARALLEL_DEGREE": "max", "HF_TASK": "t"},
    {"SERVING_LOAD_MODELS": "x", "PREDICT_TIMEOUT": "3", "DJL_ENTRY_POINT": "m.py", "OTHER": "x", "SM_NUM_GPUS": "1"},
]
TARGETS = sorted({*container_names(), *CONTAINERS})


@FUZZ
@given(
    data=torn(
        st.tuples(values(ENVIRONMENTS), st.booleans()).map(
            lambda pair: (json.dumps(pair[0]) if pair[1] else _lines(pair[0], "{}={}")).encode("utf-8", "surrogatepass")
        )
    ),
    target=st.sampled_from(TARGETS),
)
@example(data=b'"' + b"x" * 5000, target="0.29.0")
@example(data=b'{"a":' * 99_999, target="0.29.0")
@example(data=b"=x", target="0.29.0")
@example(data=b'{"a": [' + b"1," * 2000 + b"1]}", target="0.29.0")
@example(data=b'\xef\xbb\xbf{"HF_MODEL_ID": "x"}', target="0.36.0-lmi20")
def test_a_mutated_environment_is_read_or_refused(data: bytes, target: str) -> None:
    try:
        variables = parse_environment(data.decode("utf-8", "replace"), "env.json")
    except UsageError as error:
        check_sentence(str(error), "env.json")
        return
    assert all(isinstance(each, str) for pair in variables.items() for each in pair)
    assert "" not in variables or b"{" in data
    found = from_environment(variables, parse_container(target))
    assert {*found.server_wide, *found.ignored} <= set(variables)
    assert set(found.values.values()) <= {*variables.values(), "Python", "true", "false"} | {
        value.partition("::")[2].partition("=")[0].partition(":")[0] for value in variables.values()
    }


@FUZZ
@given(
    given_values=st.one_of(
        st.lists(FIELDS, max_size=8).map(dict),
        st.sampled_from(PUBLIC).map(lambda row: dict(row["values"])),
    ),
    target=st.sampled_from(TARGETS),
)
@example(given_values={"option.model_id": "x" * 1025}, target="0.29.0")
@example(given_values={"option.model_id": "x\ny"}, target="0.29.0")
@example(given_values={f"option.x{'y' * n}": "1" for n in range(101)}, target="0.36.0")
@example(given_values={"option.A_B": "1"}, target="0.36.0")
@example(given_values={"engine": ""}, target="0.36.0")
@example(given_values={"engine": "My Engine"}, target="0.36.0")
def test_a_file_as_an_environment_is_read_back_or_refused(given_values: dict[str, str], target: str) -> None:
    container = parse_container(target)
    variables: dict[str, str] = {}
    try:
        variables = to_environment(given_values, container)
    except UsageError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert message.startswith(("environment: ", *given_values))
        return
    assert len(variables) <= MAX_ENTRIES
    for name, value in variables.items():
        assert max(len(name.encode()), len(value.encode())) <= MAX_BYTES
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    back = from_environment(variables, container)
    assert not back.server_wide
    for key, value in given_values.items():
        assert not value or key == "engine" or back.values[key] == value


@FUZZ
@given(data=torn(values([{"model_type": "t5", "num_heads": 8}, {"model_type": "llama"}]).map(
    lambda value: json.dumps(value).encode("utf-8", "surrogatepass")
)))  # fmt: skip
@example(data=b"[" * 99_999)
def test_a_mutated_config_is_described_or_nothing_is_known(data: bytes) -> None:
    (PLACE / "config.json").write_bytes(data)
    assert isinstance(model_facts(PLACE), ModelFacts)
