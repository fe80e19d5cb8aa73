"""A serving.properties file as the environment variables of a container, and back, as that version reads them.

`option.x` is OPTION_X; a name in mixed case keeps its letters from 0.28 on (OPTION_pythonExecutable), and
option.entryPoint is OPTION_ENTRYPOINT. The engine is SERVING_LOAD_MODELS=test::ENGINE=/opt/ml/model. Of the server's
keys the worker counts and those with a default for the whole server are SERVING_X; the others are properties of the
model, ARGS_X from 0.28 on. A file wins over the environment, except over SAGEMAKER_*. Read in djl-serving's classes
ModelInfo, ConfigManager, PyEnv and SageMakerCompatibility, and in the image's entry script.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import UsageError
from harness.properties.containers import Container, general_kind
from harness.properties.key_rules import reads_variable

MAX_ENTRIES, MAX_BYTES = 100, 1024
"""SageMaker's limits of ContainerDefinition.Environment: entries, and bytes of a name or a value."""

_ENGINE = re.compile(r"[A-Za-z]+")
_LOAD_MODELS = re.compile(rf"(?P<name>[^:\[\],]*)::(?P<engine>{_ENGINE.pattern})(?::[^=]*)?=(?P<place>.+)")
_UPPER = re.compile(r"[A-Z_\d]+")
_SNAKE = re.compile(r"[a-z][a-z0-9_]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

SERVER_VARIABLES = {
    "minWorkers": "SERVING_MIN_WORKERS",
    "maxWorkers": "SERVING_MAX_WORKERS",
    **{
        key: f"SERVING_{key.upper()}"
        for key in ("job_queue_size", "batch_size", "max_batch_delay", "max_idle_time", "load_on_devices")
    },
    "reserved_memory_mb": "SERVING_RESERVED_MEMORY_MB",
    "retry_threshold": "SERVING_RETRY_THRESHOLD",
}
"""Keys of a model's file that have a variable of the server."""

FILE_ONLY = ("max_dynamic_batch_size", "required_memory_mb")
"""Keys that the server looks up in the file alone."""

ALIASES = {
    "HF_MODEL_ID": "option.model_id",
    "HF_REVISION": "option.revision",
    "HF_MODEL_REVISION": "option.revision",
    "HF_TASK": "option.task",
    "HF_MODEL_TRUST_REMOTE_CODE": "option.trust_remote_code",
    "HF_MODEL_QUANTIZE": "option.quantize",
    "TENSOR_PARALLEL_DEGREE": "option.tensor_parallel_degree",
    "PIPELINE_PARALLEL_DEGREE": "option.pipeline_parallel_degree",
    "SM_NUM_GPUS": "option.tensor_parallel_degree",
    "MAX_BATCH_SIZE": "option.max_rolling_batch_size",
    "MAX_BATCH_PREFILL_TOKENS": "option.max_rolling_batch_prefill_tokens",
    "MAX_CONCURRENT_REQUESTS": "job_queue_size",
    "MODEL_LOADING_TIMEOUT": "option.model_loading_timeout",
    "PREDICT_TIMEOUT": "option.predict_timeout",
    "DJL_ENTRY_POINT": "option.entryPoint",
}
"""Names that the container's entry script and loader translate; OPTION_* and SERVING_* win over them."""

OVERRIDES = {
    "SAGEMAKER_NUM_MODEL_WORKERS": ("minWorkers", "maxWorkers"),
    "SAGEMAKER_STARTUP_TIMEOUT": ("option.model_loading_timeout",),
    "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": ("option.predict_timeout",),
}
"""SageMaker's own names, which win over everything, a file included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromEnvironment:
    """Properties read from variables; `server_wide` names settings of the whole server, which no model's file can hold,
    and `ignored` the names that this container does not read."""

    values: Mapping[str, str]
    server_wide: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def to_environment(values: Mapping[str, str], container: Container) -> dict[str, str]:
    """Variable -> value. Raises UsageError for a key with no variable, and beyond SageMaker's limits."""
    variables = {_variable(key, container): _value(key, value) for key, value in values.items()}
    if len(variables) > MAX_ENTRIES:
        raise UsageError(f"environment: expected at most {MAX_ENTRIES} entries, got {len(variables)}; use a file")
    for name, value in variables.items():
        if max(len(name.encode()), len(value.encode())) > MAX_BYTES:
            raise UsageError(f"environment: {name}: expected at most {MAX_BYTES} bytes; keep it in the file")
    return variables


def from_environment(variables: Mapping[str, str], container: Container) -> FromEnvironment:
    """The properties that the container with these variables and no file works with."""
    layers: tuple[dict[str, str], ...] = ({}, {}, {})
    server_wide, ignored = [], []
    for name, value in variables.items():
        rank, found = _properties(name, value, container)
        layers[rank].update(found)
        if not found and name.startswith("SERVING_") and reads_variable(container, name):
            server_wide.append(name)
        elif not found:
            ignored.append(name)
    values = {key: value for layer in layers for key, value in layer.items()}
    return FromEnvironment(values=values, server_wide=tuple(server_wide), ignored=tuple(ignored))


def parse_environment(text: str, name: str) -> dict[str, str]:
    """Variables from a JSON object (boto3's Environment) or KEY=VALUE lines (docker --env-file). Raises UsageError."""
    text = text.removeprefix("\ufeff")
    if text.lstrip().startswith("{"):
        try:
            loaded = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name}: expected a JSON object of strings: {error}") from error
        for key, value in loaded.items():
            if not isinstance(value, str):
                shown = key if key.isprintable() else repr(key)
                raise UsageError(f"{name}: {shown:.80}: expected a string, got {value!r:.80}; write it in quotes")
        return dict(loaded)
    variables = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, sign, value = line.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"{name}:{number}: expected NAME=VALUE, got {line!r:.400}")
        variables[key.strip()] = value
    return variables


def _keeps_letters(container: Container) -> bool:
    """Whether OPTION_ and ARGS_ names in mixed case keep their letters; the release that began read ARGS_ first."""
    return reads_variable(container, "ARGS_*")


def _variable(key: str, container: Container) -> str:
    if key == "engine":
        return "SERVING_LOAD_MODELS"
    if key == "option.entryPoint":
        return "OPTION_ENTRYPOINT" if reads_variable(container, "OPTION_*") else "DJL_ENTRY_POINT"
    if key in ("option.engine", "option.entrypoint"):
        raise UsageError(f"{key}: its variable would set another key, engine or option.entryPoint; keep it in a file")
    if key.startswith("option."):
        return _spelled("OPTION_", key, key.removeprefix("option."), container)
    name = SERVER_VARIABLES.get(key, "")
    if name and reads_variable(container, name):
        return name
    if key in FILE_ONLY or not _keeps_letters(container):
        raise UsageError(f"{key}: {container.name} reads no variable for it; keep it in a file")
    return _spelled("ARGS_", key, key, container)


def _spelled(prefix: str, key: str, name: str, container: Container) -> str:
    if not reads_variable(container, f"{prefix}*"):
        raise UsageError(f"{key}: {container.name} reads no {prefix} variables; keep it in a file")
    if _SNAKE.fullmatch(name):
        return prefix + name.upper()
    if _NAME.fullmatch(name) and not _UPPER.fullmatch(name) and _keeps_letters(container):
        return prefix + name
    why = "the letters of a variable" if _NAME.fullmatch(name) else "the signs that a variable may have"
    raise UsageError(f"{key}: no environment variable of {container.name} can spell it in {why}; keep it in a file")


def _value(key: str, value: str) -> str:
    if "\n" in value or "\r" in value:
        raise UsageError(f"{key}: expected one line, got {value!r}; keep it in a file")
    if key != "engine":
        return value
    if not _ENGINE.fullmatch(value):
        raise UsageError(f"engine: expected letters such as Python, got {value!r:.60}; correct it")
    return f"test::{value}=/opt/ml/model"


def _properties(name: str, value: str, container: Container) -> tuple[int, dict[str, str]]:
    """(0 for aliases, 1 for the container's own names, 2 for what wins over all; the properties that it sets)."""
    if name.startswith(("OPTION_", "ARGS_")):
        return 1, _prefixed(name, value, container)
    if name == "SERVING_LOAD_MODELS":
        match = _LOAD_MODELS.fullmatch(value)
        return 1, {"engine": match["engine"]} if match else {}
    if not reads_variable(container, name):
        return 0, {}
    key = next((key for key, variable in SERVER_VARIABLES.items() if variable == name), "")
    if key:
        return 1, {key: value}
    if name in OVERRIDES:
        return 2, dict.fromkeys(OVERRIDES[name], value)
    return 0, {ALIASES[name]: value} if name in ALIASES else _of_entry_script(name, value, container)


def _of_entry_script(name: str, value: str, container: Container) -> dict[str, str]:
    """Names that the entry script of newer images turns into another meaning, by backend."""
    if name == "ENABLE_CUDA_GRAPHS":
        return {"option.enforce_eager": "false" if value == "true" else "true"}
    if name == "CUDA_MEMORY_FRACTION":
        is_trt = general_kind(container) == "tensorrtllm"
        return {f"option.{'kv_cache_free_gpu_mem_fraction' if is_trt else 'gpu_memory_utilization'}": value}
    return {}


def _prefixed(name: str, value: str, container: Container) -> dict[str, str]:
    prefix, _, word = name.partition("_")
    if not word or not value or not reads_variable(container, f"{prefix}_*"):
        return {}
    if _UPPER.fullmatch(word) or not _keeps_letters(container):
        word = word.lower()
    if prefix == "ARGS":
        return {word: value}
    if word == "engine":
        return {"engine": value}
    return {"option.entryPoint" if word == "entrypoint" else f"option.{word}": value}
