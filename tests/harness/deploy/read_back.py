"""Readers of the forms of a recommendation: the server that a form starts, and the candidate that this server is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import yaml

from engines.api import EngineSpec
from engines.foreign_servers.python_servers.sglang import SglangEngine
from engines.foreign_servers.python_servers.vllm import PROGRAM, VllmEngine
from engines.serving_properties.java_text import format_properties
from engines.serving_properties.read import HANDLERS, read_serving
from engines.setting import OptionValue
from harness.deploy.compose import SERVICE
from harness.deploy.started import OWN_FILE, VLLM, Door, Started, arguments_in
from harness.properties.containers import Container
from harness.properties.environment_variables import from_environment
from harness.records import Candidate

_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_BINDING = "VLLM_CPU_OMP_THREADS_BIND"
_NO_OPTIONS = ("served-model-name", "host", "port", "dtype", "tensor-parallel-size")


def read_compose(text: str, health: str) -> Started:
    """The server that such a file starts; `health` is no part of it."""
    document = yaml.load(text, yaml.CSafeLoader)
    service = document["services"][SERVICE]
    devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [{"count": 0}])
    contents = document.get("configs", {})
    return Started(
        image=service["image"],
        port=int(service["ports"][0].partition(":")[2]),
        health=health,
        command=tuple(_one_dollar(word) for word in (*service.get("entrypoint", ()), *service.get("command", ()))),
        environment={name: _one_dollar(value) for name, value in service.get("environment", {}).items()},
        files={each["target"]: _one_dollar(contents[each["source"]]["content"]) for each in service.get("configs", ())},
        mounts_model="volumes" in service,
        gpus=devices[0]["count"],
    )


def read_kubernetes(text: str) -> Started:
    """The server that such objects start."""
    objects = {each["kind"]: each for each in yaml.load_all(text, yaml.CSafeLoader)}
    (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    data = objects.get("ConfigMap", {}).get("data", {})
    mounts = container["volumeMounts"]
    return Started(
        image=container["image"],
        port=container["ports"][0]["containerPort"],
        health=container["startupProbe"]["httpGet"]["path"],
        command=tuple(_one_dollar(word) for word in container.get("command", ())),
        environment={each["name"]: _one_dollar(each["value"]) for each in container.get("env", ())},
        files={each["mountPath"]: data[each["subPath"]] for each in mounts if "subPath" in each},
        mounts_model=any(each["name"] == "model" for each in mounts),
        gpus=container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0),
    )


def _one_dollar(text: str) -> str:
    return text.replace("$$", "$")


def own_candidate(server: Started) -> Candidate:
    """Of our own server: all stands in its file."""
    return candidate_of(server.files[OWN_FILE])


def vllm_candidate(server: Started) -> Candidate:
    """Of vLLM's server. How many requests it answers at once is max_num_seqs there, whatever axis asked for it."""
    arguments = arguments_in(server.command[3:])
    options: dict[str, OptionValue] = {}
    for flag, text in arguments.items():
        if flag not in _NO_OPTIONS:
            name = flag.replace("-", "_")
            negative = name.startswith("no_") and text is None
            options[name.removeprefix("no_") if negative else name] = (
                value_of(text) if text is not None else not negative
            )
    variables = {name: text for name, text in server.environment.items() if name != _BINDING}
    binding = server.environment.get(_BINDING)
    return Candidate(
        block=0,
        engine=VllmEngine.name,
        dtype=_DTYPES[str(arguments["dtype"])],
        tensor_parallel_degree=int(str(arguments["tensor-parallel-size"])),
        rolling_batch="vllm",
        threads=len(binding.replace("|", ",").split(",")) if binding else None,
        device="cpu" if binding else "cuda",
        options={**options, **{name: value_of(text) for name, text in variables.items()}},
    )


def sglang_candidate(server: Started) -> Candidate:
    """Of SGLang's server. How many requests it answers at once is max_running_requests there."""
    arguments = arguments_in(server.command[3:])
    options: dict[str, OptionValue] = {"radix_cache": "disable-radix-cache" not in arguments}
    for flag, text in arguments.items():
        if flag not in (*_NO_OPTIONS, "tp-size", "max-running-requests", "disable-radix-cache"):
            options[flag.replace("-", "_")] = True if text is None else value_of(text)
    return Candidate(
        block=0,
        engine=SglangEngine.name,
        dtype=_DTYPES[str(arguments["dtype"])],
        tensor_parallel_degree=int(str(arguments["tp-size"])),
        rolling_batch="auto",
        device="cuda",
        options={**options, "max_rolling_batch_size": int(str(arguments["max-running-requests"]))},
    )


def sagemaker_server(variables: Mapping[str, str], door: Door = VLLM) -> Started:
    """The command line that AWS's entry script makes of the variables of a door: bare for true, none for false."""
    words: list[str] = []
    for name, value in variables.items():
        if name.startswith(door.prefix) and name != door.model and value.lower() != "false":
            flag = "--" + name.removeprefix(door.prefix).lower().replace("_", "-")
            words += [flag] if value.lower() in ("true", "") else [flag, value]
    others = {name: value for name, value in variables.items() if not name.startswith(door.prefix)}
    return Started(
        image="",
        port=8080,
        health="/ping",
        command=(PROGRAM.name, "serve", variables[door.model], *words),
        environment=others,
    )


def script_server(text: str, like: Started) -> Started:
    """The server that a start script runs: its exported variables and its command line."""
    variables: dict[str, str] = {}
    command: tuple[str, ...] = ()
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["export"]:
            name, _, value = words[1].partition("=")
            variables[name] = value
        elif words[:1] == ["exec"]:
            command = tuple(words[1:])
    return replace(like, environment=variables, command=command)


def djl_candidate(variables: Mapping[str, str], container: Container, requirements: str) -> Candidate:
    """Of a DJL container: its variables, and the requirements.txt that names the engine of a model.py of ours."""
    values = dict(from_environment(variables, container).values)
    entry = values.pop("option.entryPoint", "")
    for key in ("option.model_id", "option.model_loading_timeout", "option.task", "option.device_map"):
        values.pop(key, None)
    rolling = values.get("option.rolling_batch", "disable")
    if rolling != "disable":
        return _rolling(values, variables, rolling)
    engine = HANDLERS[entry] if entry in HANDLERS else requirements.partition("==")[0].strip()
    found = candidate_of(format_properties({**values, "option.entryPoint": f"engines.{engine}"}))
    threads = variables.get("OMP_NUM_THREADS")
    return replace(found, threads=int(threads)) if threads else found


def carried_candidate(variables: Mapping[str, str], container: Container, spec: str) -> Candidate:
    """Of a DJL container with our code in its folder: variables for the server, `spec` for what it serves."""
    values = dict(from_environment(variables, container).values)
    assert values.pop("option.entryPoint") == "model.py"
    values.pop("option.model_loading_timeout")
    inner = EngineSpec.from_message(json.loads(spec))
    server = candidate_of(format_properties({**values, "option.entryPoint": f"engines.{inner.engine}"}))
    found = Candidate(block=0, engine=inner.engine, **inner.values())
    assert server == replace(found, dtype="fp32", threads=None, options={}), (
        "the server batches as the handler computes"
    )
    return found


def _rolling(values: Mapping[str, str], variables: Mapping[str, str], engine: str) -> Candidate:
    known = ("option.dtype", "option.tensor_parallel_degree", "option.max_rolling_batch_size", "option.rolling_batch")
    options = {
        key.removeprefix("option."): value_of(value)
        for key, value in values.items()
        if key.startswith("option.") and key not in known
    }
    options |= {name: value_of(value) for name, value in variables.items() if name.startswith("VLLM_")}
    return Candidate(
        block=0,
        engine=engine,
        dtype=values["option.dtype"],
        tensor_parallel_degree=int(values["option.tensor_parallel_degree"]),
        rolling_batch=engine,
        device="cuda",
        options={**options, "max_num_seqs": int(values["option.max_rolling_batch_size"])},
    )


def candidate_of(text: str) -> Candidate:
    """Of a file for our own server."""
    spec = read_serving(text, Path(), any_device=lambda engine: "cuda").spec
    return Candidate(block=0, engine=spec.engine, **spec.values())


def value_of(text: str) -> OptionValue:
    """What the text of an option means: true or false, a number, or a word."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
