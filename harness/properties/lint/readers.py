"""The handlers that may read the options of a serving.properties file in one container version.

The server decides by engine, option.entryPoint, option.rolling_batch, the image's features and a model.py beside the
file (djl-serving: PyModel.load, LmiConfigRecommender.setRollingBatch).
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.properties.containers import Container, general_kind, named_values
from harness.properties.key_rules import COMMON_SETTINGS_SINCE, hands_on

OWN_SCRIPT = "own script"
"""The handler of a file whose option.entryPoint is the author's own: any option may be read by it."""

JAVA_ENGINES = ("PyTorch", "OnnxRuntime", "TensorFlow", "XGBoost", "Rust", "TritonServer")
"""Engines without Python: options go to the engine, keys without a prefix to the model's translator."""

VLLM_BY_DEFAULT_SINCE = (0, 33, 0)
"""From here an LMI image serves text generation by vLLM unless the file names another (before: lmi-dist)."""
_BY_ROLLING = {"vllm": "vllm", "lmi-dist": "lmi-dist", "scheduler": "scheduler", "trtllm": "tensorrt_llm"}
_BY_ENGINE = {"DeepSpeed": "deepspeed", "FasterTransformer": "fastertransformer", "OnnxRuntime": "onnxruntime"}
_BY_IMAGE = {
    "tensorrtllm": ("tensorrt_llm", "huggingface"),
    "neuronx": ("neuronx", "stable_diffusion", "huggingface", "vllm"),
}
_AUTO = ("lmi-dist", "scheduler", "vllm", "huggingface")


def is_vllm_by_default(container: Container, values: Mapping[str, str]) -> bool:
    """Whether the LMI image picks vLLM by itself, given that the model generates text."""
    is_lmi = (
        not container.is_own
        and not container.is_plain
        and general_kind(container) == "lmi"
        and container.version >= VLLM_BY_DEFAULT_SINCE
    )
    is_open = values.get("option.rolling_batch", "auto").strip() in ("", "auto")
    is_one_by_one = values.get("batch_size", "1").strip() in ("", "0", "1")
    is_python = values.get("engine", "Python").strip() not in JAVA_ENGINES
    return is_lmi and is_open and is_one_by_one and is_python and "option.entryPoint" not in values


def readers(container: Container, values: Mapping[str, str], *, has_script: bool) -> frozenset[str]:
    """Handlers that may read the file's option.* keys; empty when that is unknown (then any handler may)."""
    if container.is_own:
        entry = values.get("option.entryPoint", "")
        engine = "transformers" if entry == "djl_python.huggingface" else entry.removeprefix("engines.")
        return frozenset({"option", engine, "ignored"})
    found = _named(container, values)
    if not found and is_vllm_by_default(container, values):
        found = {"vllm", "huggingface"}
    elif not found and "option.entryPoint" not in values:
        found = set(_BY_IMAGE.get(container.kind or "", ()))
    if has_script and "option.entryPoint" not in values:
        found.add(OWN_SCRIPT)
    return frozenset(found | {"python"}) if found else frozenset()


def _named(container: Container, values: Mapping[str, str]) -> set[str]:
    """The handlers that engine, rolling batch and entry point name."""
    entry = values.get("option.entryPoint", "").strip()
    rolling = values.get("option.rolling_batch", "").strip()
    found = {_BY_ENGINE.get(values.get("engine", "").strip(), ""), _BY_ROLLING.get(rolling, "")} - {""}
    if rolling in _BY_ROLLING and container.version < COMMON_SETTINGS_SINCE:
        found.add("huggingface")
    if rolling == "lmi-dist" and container.version >= VLLM_BY_DEFAULT_SINCE:
        found.add("vllm")
    if entry in named_values("handlers"):
        found.add(named_values("handlers")[entry].handler)
        if rolling == "auto" and entry == "djl_python.huggingface":
            found.update(_AUTO)
    elif entry:
        found.add(OWN_SCRIPT)
    return found


def backend_of(container: Container, handlers: frozenset[str]) -> str:
    """The handler that passes options it does not know on to its backend; '' where none of these does."""
    return next((handler for handler in sorted(handlers) if hands_on(container, handler)), "")
