"""Every form of a recommendation, read back into the candidate that was measured, and judged by its target's schema."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import botocore.session
import httpx
import pytest
import yaml
from botocore.validate import ParamValidator
from jsonschema import Draft7Validator
from jsonschema.protocols import Validator

from engines.environments.locate import installed_python
from engines.foreign_servers.djl.folder import SPEC_FILE
from engines.foreign_servers.python_servers.vllm_arguments import QUIET
from engines.processes.child_environment import child_environment
from engines.processes.server_process import free_port
from engines.processes.threads import usable_cores
from harness.deploy.forms import FILES, Form, form
from harness.deploy.started import SGLANG, Started
from harness.errors import UsageError
from harness.properties.containers import parse_container
from harness.properties.environment_variables import parse_environment
from harness.properties.render import Source
from harness.records import Candidate
from tests.harness.choose.runs import run_of, trial
from tests.harness.deploy.read_back import (
    carried_candidate,
    djl_candidate,
    own_candidate,
    read_compose,
    read_kubernetes,
    sagemaker_server,
    script_server,
    sglang_candidate,
    vllm_candidate,
)

HOW_MANY = 200
OWN = "dynamometer-0.1"
CONTAINERS = ("0.28.0", "0.30.0", "0.33.0", "0.34.0", "0.36.0-lmi20")
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "hidden_size": 512, "intermediate_size": 1024, "vocab_size": 1000,
    "max_position_embeddings": 8192,
}  # fmt: skip
OPTIONS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "t5": {"exact_head": (True, False), "max_slots": (4, 16)},
    "transformers": {"compile": (True, False), "cache": ("dynamic", "static"), "attn": ("sdpa", "eager")},
    "openvino": {"stateful": (True, False), "activations": ("fp32", "int8")},
    "onnxruntime": {"spinning": (True, False)},
    "ctranslate2": {},
    "vllm": {
        "enable_chunked_prefill": (True, False),
        "enforce_eager": (True, False),
        "max_num_batched_tokens": (512, 2048),
        "gpu_memory_utilization": (0.5, 0.85),
        "max_model_len": (256, 4096),
        "block_size": (16, 32),
        "speculative_config": ('{"method": "ngram", "num_speculative_tokens": 3}',),
        "generation_config": ("vllm", "/opt/ml/model/it's $HOME $(x) \"quoted\" # no comment"),
        "VLLM_CPU_KVCACHE_SPACE": (2, 4),
        "VLLM_LOGGING_LEVEL": ("WARNING",),
    },
    "sglang": {
        "radix_cache": (True, False),
        "disable_overlap_schedule": (True, False),
        "chunked_prefill_size": (-1, 2048),
        "mem_fraction_static": (0.5, 0.85),
        "schedule_policy": ("lpm", "fcfs"),
        "context_length": (4096,),
        "json_model_override_args": ('{"rope_theta": 1e6, "x": "it\'s $HOME"}',),
    },
}  # fmt: skip
DTYPES = {
    "t5": ("fp32", "bf16", "int8", "int4"),
    "transformers": ("fp32", "bf16", "fp16"),
    "openvino": ("fp32", "int8"),
    "onnxruntime": ("fp32", "int8"),
    "ctranslate2": ("fp32", "int8", "bf16"),
    "vllm": ("fp32", "bf16", "fp16"),
    "sglang": ("fp32", "bf16", "fp16"),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "it's a llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


def _candidate(rng: random.Random, engine: str, *, options: bool = True, device: str = "cpu") -> Candidate:
    chosen = {n: rng.choice(v) for n, v in OPTIONS[engine].items() if options and rng.random() < 0.4}
    axes: dict[str, Any] = {
        "dtype": rng.choice(DTYPES[engine]),
        "batch_size": rng.choice((1, 2, 8, 32)),
        "threads": rng.choice((None, 1, usable_cores())),
        "device": device,
    }
    if engine == "vllm":
        axes["tensor_parallel_degree"] = rng.choice((1, 2, 4)) if device == "cuda" else 1
        rolling = rng.choice(("disable", "auto", "vllm"))
        if rolling != "disable":
            axes |= {"rolling_batch": rolling, "batch_size": 1}
            chosen |= {"max_rolling_batch_size": 12} if rng.random() < 0.5 else {}
        if device == "cuda":
            axes["threads"] = None
            chosen.pop("VLLM_CPU_KVCACHE_SPACE", None)
        return Candidate(block=0, engine=engine, **axes, options=chosen)
    if engine == "sglang":
        axes |= {"tensor_parallel_degree": rng.choice((1, 2, 4)), "threads": None}
        if rng.random() < 0.5:
            axes |= {"rolling_batch": "auto", "batch_size": 1}
        return Candidate(block=0, engine=engine, **axes, options=chosen)
    axes |= {
        "workers": rng.choice((1, 2, 4)),
        "max_batch_delay_ms": rng.choice((0, 5, 100)),
        "job_queue_size": rng.choice((100, 1000)),
    }
    if engine == "t5" and rng.random() < 0.3:
        axes |= {"rolling_batch": "auto", "batch_size": 1}
    return Candidate(block=0, engine=engine, **axes, options=chosen)


def _same_for_vllm(candidate: Candidate) -> Candidate:
    """What vLLM's server is, written from vLLM's side: one number of requests at once, and dyno's defaults named."""
    options = dict(candidate.options)
    rolling = options.pop("max_rolling_batch_size", 32)
    options.setdefault("max_num_seqs", candidate.batch_size if candidate.rolling_batch == "disable" else rolling)
    options.setdefault("enable_prefix_caching", False)
    options.setdefault("max_model_len", 4096)
    threads = None
    if candidate.device == "cpu":
        threads = candidate.threads or usable_cores()
        options.setdefault("VLLM_CPU_KVCACHE_SPACE", 1)
    options.setdefault("VLLM_NO_USAGE_STATS", 1)
    return replace(candidate, batch_size=1, rolling_batch="vllm", threads=threads, options=options)


def _same_for_sglang(candidate: Candidate) -> Candidate:
    """The same from SGLang's side: what is off is not named, and dyno's defaults are."""
    options = {name: value for name, value in candidate.options.items() if value is not False}
    options.setdefault("radix_cache", False)
    rolling = 32 if candidate.rolling_batch != "disable" else candidate.batch_size
    options.setdefault("max_rolling_batch_size", rolling)
    return replace(candidate, batch_size=1, rolling_batch="auto", options=options)


def _same_in_lmi(candidate: Candidate) -> Candidate:
    found = _same_for_vllm(candidate)
    left_out = ("enable_prefix_caching", "max_model_len", "VLLM_NO_USAGE_STATS")
    options = {n: v for n, v in found.options.items() if n not in left_out or n in candidate.options}
    return replace(found, options=options)


def _source(candidate: Candidate, model_dir: Path) -> Source:
    is_decoder = candidate.engine in ("vllm", "sglang")
    model = {"kind": "path", "value": str(model_dir) if is_decoder else "/models/t5", "seed": 0}
    manifest = run_of(resolved={"model": model}).manifest
    return Source(run_name="r", manifest=manifest, trial=trial(3, candidate, (20.1, 19.8, 20.6)))


@cache
def _schema(name: str) -> Validator:
    if name == "compose":
        vendored = files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json")
        return Draft7Validator(json.loads(vendored.read_text()))
    text = (Path(__file__).parent / "schemas" / "kubernetes-1.37.json").read_text()
    kinds = {"Deployment": "apps.v1", "Service": "core.v1", "ConfigMap": "core.v1"}
    refs = {kind: {"$ref": f"#/definitions/io.k8s.api.{group}.{kind}"} for kind, group in kinds.items()}
    cases = [{"if": {"properties": {"kind": {"const": k}}}, "then": r, "else": True} for k, r in refs.items()]
    known = {"properties": {"kind": {"enum": list(kinds)}}, "required": ["kind", "apiVersion", "metadata"]}
    return Draft7Validator({**json.loads(text), "allOf": [known, *cases]})


Read = Callable[[Form, str], Candidate]


def _read_compose(made: Form, container: str) -> Candidate:
    text = made.files[FILES["docker-compose"]]
    _schema("compose").validate(yaml.load(text, yaml.CSafeLoader))
    return _of(read_compose(text, "/ping"), made, container)


def _read_kubernetes(made: Form, container: str) -> Candidate:
    text = made.files[FILES["kubernetes"]]
    for each in yaml.load_all(text, yaml.CSafeLoader):
        _schema("kubernetes").validate(each)
    return _of(read_kubernetes(text), made, container)


def _of(server: Started, made: Form, container: str) -> Candidate:
    if container != OWN:
        return _in_djl(server.environment, made, container)
    return vllm_candidate(server) if server.command[0] == "vllm" else own_candidate(server)


def _in_djl(variables: Mapping[str, str], made: Form, container: str) -> Candidate:
    target = parse_container(container)
    if SPEC_FILE in made.files:
        return carried_candidate(variables, target, made.files[SPEC_FILE])
    return djl_candidate(variables, target, made.files.get("requirements.txt", ""))


def _read_env(made: Form, container: str) -> Candidate:
    variables = parse_environment(made.files[FILES["env"]], "container.env")
    _sagemaker_takes(variables)
    return _in_djl(variables, made, container)


def _read_sagemaker(made: Form, container: str) -> Candidate:
    variables = parse_environment(made.files[FILES["sm-vllm-env"]], "sagemaker-vllm.env")
    _sagemaker_takes(variables)
    return vllm_candidate(sagemaker_server(variables))


def _read_sglang(made: Form, container: str) -> Candidate:
    variables = parse_environment(made.files[FILES["sm-sglang-env"]], "sagemaker-sglang.env")
    _sagemaker_takes(variables)
    assert made.next_command.endswith("/sglang:server-sagemaker-cuda")
    return sglang_candidate(sagemaker_server(variables, SGLANG))


def _read_command(made: Form, container: str) -> Candidate:
    return vllm_candidate(script_server(made.files[FILES["vllm-command"]], Started(image="", port=0, health="")))


@cache
def _create_model() -> Any:
    return botocore.session.get_session().get_service_model("sagemaker").operation_model("CreateModel").input_shape


def _sagemaker_takes(variables: Mapping[str, str]) -> None:
    container = {"Image": "1.dkr.ecr.eu-west-1.amazonaws.com/vllm:1", "Environment": dict(variables)}
    asked = {"ModelName": "m", "ExecutionRoleArn": "arn:aws:iam::123456789012:role/r", "PrimaryContainer": container}
    report = ParamValidator().validate(asked, _create_model())
    assert not report.has_errors(), report.generate_report()
    assert all(name.replace("_", "a").isalnum() for name in variables)


def _on_own(rng: random.Random) -> tuple[Candidate, str]:
    engine = rng.choice(("t5", "transformers", "ctranslate2", "onnxruntime", "openvino", "vllm"))
    device = rng.choice(("cpu", "cuda")) if engine in ("vllm", "t5") else "cpu"
    return _candidate(rng, engine, device=device), OWN


def _on_djl(rng: random.Random) -> tuple[Candidate, str]:
    engine = rng.choice(("t5", "transformers", "ctranslate2", "onnxruntime", "openvino", "vllm"))
    container = rng.choice(CONTAINERS if engine in ("transformers", "ctranslate2", "vllm") else CONTAINERS[2:])
    options = engine != "transformers" or rng.random() < 0.1
    return _candidate(rng, engine, options=options, device="cuda" if engine == "vllm" else "cpu"), container


def _on_vllm(rng: random.Random) -> tuple[Candidate, str]:
    return _candidate(rng, "vllm", device=rng.choice(("cpu", "cuda"))), OWN


def _on_sglang(rng: random.Random) -> tuple[Candidate, str]:
    return _candidate(rng, "sglang", device="cuda"), OWN


FORMS: Mapping[str, tuple[str, Callable[[random.Random], tuple[Candidate, str]], Read]] = {
    "docker-compose, ours": ("docker-compose", _on_own, _read_compose),
    "docker-compose, DJL": ("docker-compose", _on_djl, _read_compose),
    "kubernetes, ours": ("kubernetes", _on_own, _read_kubernetes),
    "kubernetes, DJL": ("kubernetes", _on_djl, _read_kubernetes),
    "env, DJL": ("env", _on_djl, _read_env),
    "vllm-command": ("vllm-command", _on_vllm, _read_command),
    "sm-vllm-env": ("sm-vllm-env", _on_vllm, _read_sagemaker),
    "sm-sglang-env": ("sm-sglang-env", _on_sglang, _read_sglang),
}


def _expected(candidate: Candidate, container: str) -> Candidate:
    if candidate.engine == "sglang":
        return _same_for_sglang(candidate)
    if candidate.engine == "vllm":
        return _same_for_vllm(candidate) if container == OWN else _same_in_lmi(candidate)
    if container != OWN and candidate.engine == "transformers":
        return replace(candidate, options={})  # those that are off; the others are refused
    if container != OWN and candidate.engine in ("t5", "openvino"):
        return replace(candidate, threads=candidate.threads or max(1, usable_cores() // candidate.workers))
    return candidate


def _made(name: str, model_dir: Path, refused: list[str]) -> Iterator[tuple[Candidate, str, Form]]:
    asked, draw, _ = FORMS[name]
    rng = random.Random(18)
    for _ in range(HOW_MANY):
        candidate, container = draw(rng)
        try:
            yield candidate, container, form(_source(candidate, model_dir), asked, container, Path("/out"))
        except UsageError as error:
            refused.append(str(error))


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_read_back_as_the_candidate_that_was_measured(name: str, model_dir: Path) -> None:
    refused: list[str] = []
    for candidate, container, made in _made(name, model_dir, refused):
        found = FORMS[name][2](made, container)
        assert found.axes() == _expected(candidate, container).axes(), (candidate, made.files)
    assert len(refused) <= HOW_MANY / 10, sorted(set(refused))
    assert all(len(reason.splitlines()) == 1 for reason in refused)


@pytest.mark.parametrize("name", ["env", "docker-compose", "kubernetes"])
def test_every_form_for_djl_serving_states_its_order_and_what_a_death_does_there(name: str, model_dir: Path) -> None:
    source = _source(Candidate(block=0, engine="ctranslate2"), model_dir)
    source = replace(source, trial=replace(source.trial, queue_order="fifo"))
    text = form(source, name, "0.36.0", Path("/out")).files[FILES[name]]
    assert "a P99 many times higher than measured: neither is promised" in text
    assert "ends the model for good" in text


PARSE = """
import json, sys
try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ImportError:
    from vllm.entrypoints.openai.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
for line in sys.stdin:
    words = json.loads(line)
    found = vars(parser.parse_args(words[1:]))
    print(json.dumps({"model": words[0], **{name: found[name] for name in ("dtype", "max_num_seqs", "enforce_eager")}}))
"""


@pytest.mark.heavy
def test_the_arguments_of_both_vllm_forms_pass_the_parser_of_the_installed_vllm(model_dir: Path) -> None:
    python = installed_python("vllm")
    if python is None:
        pytest.skip("vllm not installed: `dyno engine install vllm` for a separate environment")
    refused: list[str] = []
    commands, wanted = [], []
    for candidate, _, made in _made("vllm-command", model_dir, refused):
        commands.append(script_server(made.files["vllm.sh"], Started(image="", port=0, health="")).command)
        wanted.append(candidate)
    for candidate, _, made in _made("sm-vllm-env", model_dir, refused):
        variables = parse_environment(made.files["sagemaker-vllm.env"], "sagemaker-vllm.env")
        commands.append(sagemaker_server(variables).command)
        wanted.append(candidate)
    asked = "".join(json.dumps(command[2:]) + "\n" for command in commands)
    env = {**os.environ, **child_environment(str(python)), **QUIET}
    done = subprocess.run([python, "-c", PARSE], input=asked, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == len(wanted) == 2 * HOW_MANY
    for row, candidate in zip(rows, wanted, strict=True):
        same = _same_for_vllm(candidate)
        assert row["dtype"] == {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[candidate.dtype]
        assert row["max_num_seqs"] == same.options["max_num_seqs"]
        assert row["enforce_eager"] == same.options.get("enforce_eager", False)


@pytest.mark.heavy
def test_the_command_line_of_our_container_serves(tmp_path: Path) -> None:
    what = Candidate(block=0, engine="fake", workers=1, options={"service_ms": 1})
    made = form(_source(what, tmp_path), "docker-compose", OWN, tmp_path)
    server = read_compose(made.files["compose.yaml"], "/ping")
    (text,) = server.files.values()
    (tmp_path / "serving.properties").write_text(text)
    port = free_port()
    places = {
        "0.0.0.0": "127.0.0.1", str(server.port): str(port), "/opt/ml/model": str(tmp_path),
        "/opt/dynamometer/serving.properties": str(tmp_path / "serving.properties"),
    }  # fmt: skip
    words = [places.get(word, word) for word in server.command[1:]]
    process = subprocess.Popen([sys.executable, "-m", "harness", *words], stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        assert _answers(f"{url}{server.health}")
        assert httpx.post(f"{url}/invocations", json={"inputs": "spell: 4213"}, timeout=30).status_code == 200
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    """Whether it answers 200 within a minute."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).status_code == 200:
                return True
        time.sleep(0.1)
    return False


def test_sglang_and_our_servers_variables_are_refused_in_one_sentence(model_dir: Path) -> None:
    source = _source(Candidate(block=0, engine="t5"), model_dir)
    with pytest.raises(UsageError, match="is no SGLang: choose another --format, or measure engine sglang"):
        form(source, "sm-sglang-env", OWN, Path("/out"))
    with pytest.raises(UsageError, match="reads no variables, only a file"):
        form(source, "env", OWN, Path("/out"))
    with pytest.raises(UsageError, match="is no vLLM: choose another --format"):
        form(source, "vllm-command", OWN, Path("/out"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generation_config": "="}, "cannot pass on the value '='"),
        ({"speculative_config": "x" * 1025}, "SageMaker takes 1024 bytes, got 1025"),
    ],
)
def test_what_the_entry_script_of_aws_cannot_pass_on_is_refused(
    model_dir: Path, options: dict[str, Any], message: str
) -> None:
    source = _source(Candidate(block=0, engine="vllm", options=options), model_dir)
    with pytest.raises(UsageError, match=message):
        form(source, "sm-vllm-env", OWN, Path("/out"))


def test_a_list_of_words_is_no_variable(model_dir: Path) -> None:
    options = {"cuda_graph_bs_decode": "1 2 4"}
    source = _source(Candidate(block=0, engine="sglang", device="cuda", options=options), model_dir)
    with pytest.raises(UsageError, match="sm-sglang-env: AWS's entry script cannot pass on '2' after '1'"):
        form(source, "sm-sglang-env", OWN, Path("/out"))
