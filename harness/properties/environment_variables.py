"""A serving.properties file as the environment variables of a container, and back.

`option.x` is OPTION_X, a server key `x` is SERVING_X, the engine is SERVING_LOAD_MODELS=test::ENGINE=/opt/ml/model
(djl-serving's LMI configuration guide). A file wins over the environment. Names written in camel case cannot be spelled
in upper case and read back, except option.entryPoint, which the container knows as OPTION_ENTRYPOINT.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import UsageError

MAX_ENTRIES, MAX_BYTES = 100, 1024
"""SageMaker's limits of ContainerDefinition.Environment: entries, and bytes of a name or a value."""

_LOAD_MODELS = re.compile(r"(?P<name>[^:\[\],]*)::(?P<engine>[A-Za-z]+)(?::[^=]*)?=(?P<place>.+)")

ALIASES = {
    "HF_MODEL_ID": "option.model_id",
    "HF_REVISION": "option.revision",
    "HF_MODEL_TRUST_REMOTE_CODE": "option.trust_remote_code",
    "HF_MODEL_QUANTIZE": "option.quantize",
    "TENSOR_PARALLEL_DEGREE": "option.tensor_parallel_degree",
    "SM_NUM_GPUS": "option.tensor_parallel_degree",
    "MAX_BATCH_SIZE": "option.max_rolling_batch_size",
    "MAX_BATCH_PREFILL_TOKENS": "option.max_rolling_batch_prefill_tokens",
    "MAX_CONCURRENT_REQUESTS": "job_queue_size",
    "OPTION_ENGINE": "engine",
    "OPTION_ENTRYPOINT": "option.entryPoint",
}
"""Names that the container's entry script and loader translate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromEnvironment:
    """Properties read from variables, and the names that are not the container's business."""

    values: Mapping[str, str]
    ignored: tuple[str, ...]


def to_environment(values: Mapping[str, str]) -> dict[str, str]:
    """Variable -> value. Raises UsageError for a key with no variable, and beyond SageMaker's limits."""
    variables = {_variable(key): _value(key, value) for key, value in values.items()}
    if len(variables) > MAX_ENTRIES:
        raise UsageError(f"environment: expected at most {MAX_ENTRIES} entries, got {len(variables)}; use a file")
    for name, value in variables.items():
        if max(len(name.encode()), len(value.encode())) > MAX_BYTES:
            raise UsageError(f"environment: {name}: expected at most {MAX_BYTES} bytes; keep it in the file")
    return variables


def from_environment(variables: Mapping[str, str]) -> FromEnvironment:
    """The properties that a container with these variables and no file works with."""
    values: dict[str, str] = {}
    ignored = []
    for name, value in variables.items():
        found = _properties(name, value)
        if not found:
            ignored.append(name)
        for key, read in found.items():
            if name in ALIASES and not name.startswith("OPTION_"):
                values.setdefault(key, read)  # OPTION_* wins over its aliases, whatever the order
            else:
                values[key] = read
    return FromEnvironment(values=values, ignored=tuple(ignored))


def parse_environment(text: str, name: str) -> dict[str, str]:
    """Variables from a JSON object (boto3's Environment) or KEY=VALUE lines (docker --env-file). Raises UsageError."""
    if text.lstrip().startswith("{"):
        try:
            loaded = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{name}: expected a JSON object of strings: {error}") from error
        wrong = [key for key, value in loaded.items() if not isinstance(value, str)]
        if wrong:
            raise UsageError(f"{name}: {wrong[0]}: expected a string, got {loaded[wrong[0]]!r}; write it in quotes")
        return dict(loaded)
    variables = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, sign, value = line.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"{name}:{number}: expected NAME=VALUE, got {line!r}")
        variables[key.strip()] = value
    return variables


def _variable(key: str) -> str:
    if key == "engine":
        return "SERVING_LOAD_MODELS"
    if key == "option.entryPoint":
        return "OPTION_ENTRYPOINT"
    name = key.removeprefix("option.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UsageError(
            f"{key}: no environment variable can spell it (upper case loses its letters); keep it in a file"
        )
    return f"OPTION_{name.upper()}" if key.startswith("option.") else f"SERVING_{name.upper()}"


def _value(key: str, value: str) -> str:
    if "\n" in value or "\r" in value:
        raise UsageError(f"{key}: expected one line, got {value!r}; keep it in a file")
    return f"test::{value}=/opt/ml/model" if key == "engine" else value


def _properties(name: str, value: str) -> dict[str, str]:
    if name in ALIASES:
        return {ALIASES[name]: value}
    if name == "SERVING_LOAD_MODELS":
        match = _LOAD_MODELS.fullmatch(value)
        return {"engine": match["engine"]} if match else {}
    if name.startswith("OPTION_"):
        return {f"option.{name.removeprefix('OPTION_').lower()}": value}
    if name.startswith("SERVING_"):
        return {name.removeprefix("SERVING_").lower(): value}
    return {}
