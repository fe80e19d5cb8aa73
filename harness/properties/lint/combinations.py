"""Lint for combinations of serving.properties values that are fine alone and impossible together."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.properties.containers import named_values, vllm_in
from harness.properties.lint.readers import OWN_SCRIPT, is_vllm_by_default
from harness.properties.lint.records import Finding, LintInput

T5_NEEDS_HF = "set option.rolling_batch=disable and option.entryPoint=djl_python.huggingface"
T5_FILE = "engine=Python, option.entryPoint=djl_python.huggingface, option.rolling_batch=disable, option.model_id=..."
ROLLING = ("auto", "vllm", "lmi-dist", "scheduler", "trtllm", "deepspeed", "tnx")
LAST_LMI_WITH_TRANSFORMERS_4 = 24
"""From LMI release 25 the image may hold transformers 5, whose text2text-generation task is gone (KeyError)."""
TRANSFORMERS_4 = "transformers>=4.57,<5"
"""The pin under which the Hugging Face handler of the newest releases serves T5 (the container installs it at load)."""
PIN = re.compile(r"^transformers\s*(==\s*4|~=\s*4|<\s*5|>=?\s*4[^#\n]*<\s*5)", re.MULTILINE)
SAGEMAKER_RESPONSE_LIMIT_S = 60
FIRST_ASYNC_LMI = 17
"""From here an LMI image turns to vLLM's asynchronous mode where no rolling batch is named."""


def combination_findings(given: LintInput) -> Iterator[Finding]:
    """Cross-key rules; each yields at the line of the key to change."""
    yield from _model_location(given)
    yield from _workers(given)
    yield from _parallelism(given)
    if not given.container.is_own:
        yield from _engine(given)
        yield from _batching(given)
        yield from _t5(given)
        yield from _precision(given)
        yield from _timeouts(given)
        yield from _defaults(given)
    elif _whole(given, "batch_size", 1) > 1 and given.values.get("option.rolling_batch") == "auto":
        yield given.error("batch_size", "batch_size > 1 and option.rolling_batch=auto exclude each other")


def _whole(given: LintInput, key: str, default: int) -> int:
    try:
        return int(given.values.get(key, default))
    except ValueError:
        return default


def _model_location(given: LintInput) -> Iterator[Finding]:
    if "option.s3url" in given.values and "option.model_id" in given.values:
        yield given.error("option.s3url", "excludes option.model_id: the server refuses a file with both; keep one")
    hidden = "max_dynamic_batch_size"
    if hidden in given.values and "batch_size" in given.values:
        yield given.warning(hidden, "batch_size is also set and wins")


def _workers(given: LintInput) -> Iterator[Finding]:
    for device in ("", "cpu.", "gpu.", "nc."):
        low, high = f"{device}minWorkers", f"{device}maxWorkers"
        if low in given.values and high in given.values and _whole(given, high, 1) < _whole(given, low, 1):
            wrong = f"{high}={given.values[high]} is below {low}={given.values[low]}"
            if given.container.is_own:
                yield given.error(high, f"{wrong}: the server refuses the model")
            else:
                yield given.warning(high, f"{wrong}: the server lowers {low} to {given.values[high]}")
    many = _whole(given, "maxWorkers", 1) > 1
    for key in ("option.enable_lora", "option.enable_stateful_sessions", "option.lmcache_auto_config"):
        if many and given.values.get(key, "").strip().lower() == "true":
            yield given.error(key, f"needs maxWorkers=1, got maxWorkers={given.values['maxWorkers']}")


def _parallelism(given: LintInput) -> Iterator[Finding]:
    key = "option.tensor_parallel_degree"
    degree = _whole(given, key, 1)
    heads = given.model.heads
    if heads is not None and degree > 1 and heads % degree:
        fitting = [str(d) for d in range(1, min(heads, 64) + 1) if heads % d == 0]
        yield given.error(key, f"{degree} does not divide the model's {heads} heads; possible: {', '.join(fitting)}")
    other = given.values.get("option.tensor_parallel_size")
    if other is not None and key in given.values and other.strip() != given.values[key].strip():
        yield given.error(
            "option.tensor_parallel_size", f"differs from {key}={given.values[key]}: the vLLM handler refuses that"
        )


def _batching(given: LintInput) -> Iterator[Finding]:
    rolling = given.values.get("option.rolling_batch", "").strip()
    batch = _whole(given, "batch_size", 1)
    if batch > 1 and rolling in ROLLING:
        yield given.error(
            "batch_size",
            f"batch_size={batch} turns rolling batch off: it excludes option.rolling_batch={rolling}; "
            "remove batch_size or set option.rolling_batch=disable",
        )
    streaming = given.values.get("option.enable_streaming", "false").strip().lower()
    if batch > 1 and streaming not in ("", "false") and "neuronx" not in given.handlers:
        yield given.error("option.enable_streaming", f"batch_size={batch} is refused with streaming; set batch_size=1")
    rolling_size = _whole(given, "option.max_rolling_batch_size", 0)
    if rolling_size > _whole(given, "job_queue_size", 1000):
        yield given.warning("option.max_rolling_batch_size", "larger than job_queue_size: the batch can never fill")
    pipeline = "option.pipeline_parallel_degree"
    if rolling == "vllm" and given.container.version >= (0, 30) and _whole(given, pipeline, 1) > 1:
        yield given.error(pipeline, "the vLLM handler refuses pipeline parallelism with rolling batch: write 1")
    is_rolling = rolling in ROLLING
    if is_rolling and given.values.get("option.async_mode", "").strip().lower() == "true":
        yield given.error("option.async_mode", "async mode and rolling batch exclude each other")


def _engine(given: LintInput) -> Iterator[Finding]:
    rolling = given.values.get("option.rolling_batch", "").strip()
    is_vllm = rolling == "vllm" or is_vllm_by_default(given.container, given.values)
    if is_vllm and OWN_SCRIPT not in given.handlers and given.values.get("engine", "").strip() == "MPI":
        yield given.error("engine", "the vLLM handler refuses every engine but Python: write engine=Python")


def _t5(given: LintInput) -> Iterator[Finding]:
    if given.model.family != "t5":
        return
    rolling = given.values.get("option.rolling_batch", "").strip()
    if rolling == "vllm" or given.values.get("option.entryPoint", "").startswith("djl_python.lmi_vllm"):
        yield given.error(
            "option.rolling_batch" if rolling else "option.entryPoint",
            f"vLLM does not serve T5 (encoder-decoder models are not supported); {T5_NEEDS_HF}",
        )
    if OWN_SCRIPT not in given.handlers and not _auto_serves_t5(given, rolling):
        key = "option.rolling_batch" if rolling else "option.model_id"
        yield given.error(key, f"left to itself the container picks a backend that cannot serve T5; {T5_NEEDS_HF}")
    engine = named_values("engines").get(given.values.get("engine", "").strip())
    if engine is not None and engine.retired and not engine.is_in(given.container):
        yield given.error("engine", f"for T5 in {given.container.name} write {_t5_instead(given)}")
    release = given.container.lmi_release
    uses_hf = given.values.get("option.entryPoint", "").strip() == "djl_python.huggingface"
    is_streaming = given.values.get("option.enable_streaming", "false").strip().lower() not in ("", "false")
    is_pinned = PIN.search(given.requirements) is not None
    if (
        uses_hf
        and release is not None
        and release > LAST_LMI_WITH_TRANSFORMERS_4
        and not is_streaming
        and not is_pinned
    ):
        yield given.error(
            "option.entryPoint",
            f"LMI {release} may hold transformers 5, where the handler's T5 path ends with 'Unknown task "
            f"text2text-generation'; put a requirements.txt with {TRANSFORMERS_4} beside the file, use 0.36.0-lmi20 or "
            "older, or a model.py of your own",
        )


def _auto_serves_t5(given: LintInput, rolling: str) -> bool:
    """Whether the backend that the container picks has T5, or none is left to pick: TensorRT-LLM's from 0.27 to 0.32;
    lmi-dist until 0.32, which ran under MPI only and from 0.28 set that itself; never vLLM."""
    version, engine = given.container.version[:2], given.values.get("engine", "").strip()
    if given.container.kind == "tensorrtllm":
        is_named = "option.entryPoint" in given.values or rolling not in ("", "auto")
        return is_named or (0, 27) <= version <= (0, 32)
    if rolling == "auto" and version <= (0, 32):
        return version >= (0, 28) or engine == "MPI"
    return rolling != "auto" and not is_vllm_by_default(given.container, given.values)


def _t5_instead(given: LintInput) -> str:
    release = given.container.lmi_release
    if release is not None and release > LAST_LMI_WITH_TRANSFORMERS_4:
        return (
            "a model.py of your own (vLLM does not serve T5, and this release's Hugging Face handler cannot under "
            f"transformers 5), or choose 0.36.0-lmi20 and write {T5_FILE}"
        )
    return f"{T5_FILE} (vLLM does not serve T5)"


def _precision(given: LintInput) -> Iterator[Finding]:
    dtype = given.values.get("option.dtype", "").strip()
    if given.model.family == "t5" and dtype in ("fp16", "float16"):
        yield given.warning(
            "option.dtype",
            "the larger T5s overflow fp16 (65504) in their feed-forward outputs: use bf16 or fp32",
        )
    quantize = given.values.get("option.quantize", "").strip()
    if quantize == "smoothquant" and dtype in ("bf16", "bfloat16") and "deepspeed" in given.handlers:
        yield given.error("option.quantize", "smoothquant does not take bf16")
    is_hf = not given.handlers - {"python", "huggingface", "scheduler"}  # the other backends place the model themselves
    if is_hf and quantize.startswith("bitsandbytes") and "option.device_map" not in given.values:
        yield given.error("option.quantize", "bitsandbytes needs option.device_map (write option.device_map=auto)")


def _defaults(given: LintInput) -> Iterator[Finding]:
    """What an LMI image does where a file for text generation names no rolling batch."""
    release = given.container.lmi_release
    keys = ("option.max_rolling_batch_size", "option.max_num_seqs")
    is_open = is_vllm_by_default(given.container, given.values) and "option.model_id" in given.values
    if not is_open or release is None or release < FIRST_ASYNC_LMI or given.model.family == "t5":
        return
    if OWN_SCRIPT in given.handlers or any(key in given.values for key in keys):
        return
    version = vllm_in(given.container)
    yield given.hint(
        keys[0],
        f"absent: LMI {release}{f' (vLLM {version})' if version else ''} then runs vLLM asynchronously, at most "
        "32 requests at once (max_num_seqs), where the documentation has 256 (read in source of 2026-06-24, not "
        "run); write the number you mean",
    )


def _timeouts(given: LintInput) -> Iterator[Finding]:
    timeout = _whole(given, "option.predict_timeout", 0)
    if timeout > SAGEMAKER_RESPONSE_LIMIT_S:
        yield given.warning(
            "option.predict_timeout",
            f"a SageMaker endpoint cuts a synchronous answer at {SAGEMAKER_RESPONSE_LIMIT_S} s",
        )
