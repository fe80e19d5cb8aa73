"""The start commands of two servers that dyno starts nowhere yet, trtllm-serve and TGI, for a measured configuration.

No word of them was run. trtllm-serve's are read in its source (TensorRT-LLM 1.x, commit 00209af), TGI's in its
launcher's reference and source (TGI 3, commits 032fc4c and 009c4e0). One that somebody started is measured by engine
`attach`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engines.adapters.not_launched import TGI, TRTLLM, OwnServer
from engines.api import EngineSpec
from engines.errors import SpecInvalid
from engines.foreign_servers.python_servers.sglang import SglangEngine
from engines.foreign_servers.python_servers.vllm import VllmEngine, with_defaults
from engines.models.checkpoint.kind import ModelKind
from engines.serving_properties.write import at_once
from engines.setting import AXES, OptionValue, Setting

ADDRESS = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartCommand:
    """What starts a server: the words of its command line, its environment variables, and a YAML file that the words
    name by CONFIG ({}: none)."""

    words: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)


CONFIG = "CONFIG"
"""The word that stands for the YAML file's path."""

_OF_VLLM = {
    "max_num_seqs": "at_once", "max_rolling_batch_size": "at_once", "max_model_len": "context",
    "max_num_batched_tokens": "step_tokens", "enable_chunked_prefill": "cuts_prompts",
    "enable_prefix_caching": "caches_prompts", "kv_cache_dtype": "cache_dtype", "enforce_eager": "is_eager",
}  # fmt: skip
_OF_SGLANG = {
    "max_rolling_batch_size": "at_once", "context_length": "context", "radix_cache": "caches_prompts",
    "kv_cache_dtype": "cache_dtype",
}  # fmt: skip
_OF_OTHERS = {"max_rolling_batch_size": "at_once"}
"""Option of an engine -> what it means here."""
_ONE_SERVER = ("threads", *(axis.name for axis in AXES if axis.is_scheduling and axis.name != "batch_size"))
"""Axes of dyno's own server, which these have not: they must be at their defaults."""


def trtllm_command(spec: EngineSpec, kind: ModelKind) -> StartCommand:
    """`trtllm-serve` for the configuration of `spec`. Raises SpecInvalid for what it has no word for."""
    server = TRTLLM
    asked = _asked(spec, kind, server)
    if spec.dtype != kind.dtype:
        raise SpecInvalid(
            f"{server.title} has no argument for dtype {spec.dtype}: it computes in the checkpoint's, "
            f"{kind.dtype or 'which config.json does not state'}"
        )
    _refuse(server, asked, "cache_dtype", "is_eager")
    words = [
        "trtllm-serve", str(spec.model_dir), "--host", ADDRESS, "--port", "8000",
        "--tp_size", str(spec.tensor_parallel_degree), "--max_batch_size", str(at_once(spec)),
    ]  # fmt: skip
    words += ["--max_seq_len", str(asked["context"])] if "context" in asked else []
    words += ["--max_num_tokens", str(asked["step_tokens"])] if "step_tokens" in asked else []
    words += ["--enable_chunked_prefill"] if asked["cuts_prompts"] else []
    words += ["--extra_llm_api_options", CONFIG]
    config = {"kv_cache_config": {"enable_block_reuse": bool(asked["caches_prompts"])}}
    return StartCommand(words=tuple(words), config=config)


_TGI_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
_TGI_CACHES = {"fp8_e5m2": "fp8_e5m2", "fp8_e4m3": "fp8_e4m3fn"}


def tgi_command(spec: EngineSpec, kind: ModelKind) -> StartCommand:
    """TGI's `text-generation-launcher` for the configuration of `spec`. Raises SpecInvalid for what it has no word
    for."""
    server = TGI
    asked = _asked(spec, kind, server)
    if spec.dtype not in _TGI_DTYPES:
        raise SpecInvalid(f"{server.title} has no word for dtype {spec.dtype}: it takes {', '.join(_TGI_DTYPES)}")
    _refuse(server, asked, "step_tokens")
    if not asked["cuts_prompts"]:
        raise SpecInvalid(f"{server.title} has no argument that keeps prompts whole")
    words = [
        "text-generation-launcher", "--model-id", str(spec.model_dir), "--hostname", ADDRESS, "--port", "3000",
        "--dtype", _TGI_DTYPES[spec.dtype], "--num-shard", str(spec.tensor_parallel_degree),
        "--max-batch-size", str(at_once(spec)),
    ]  # fmt: skip
    if "context" in asked:
        most = int(asked["context"])
        words += ["--max-total-tokens", str(most), "--max-input-tokens", str(most - 1)]
    if (cache := asked.get("cache_dtype", "auto")) != "auto":
        if cache not in _TGI_CACHES:
            known = ", ".join(_TGI_CACHES)
            raise SpecInvalid(f"{server.title} has no word for kv_cache_dtype {cache}: it takes auto, {known}")
        words += ["--kv-cache-dtype", _TGI_CACHES[str(cache)]]
    words += ["--cuda-graphs", "0"] if asked.get("is_eager") else []
    words += ["--usage-stats", "off"]
    return StartCommand(words=tuple(words), env={"PREFIX_CACHING": "1" if asked["caches_prompts"] else "0"})


def _asked(spec: EngineSpec, kind: ModelKind, server: OwnServer) -> dict[str, OptionValue]:
    """What the measured server's options mean. Raises SpecInvalid for what has no argument."""
    if not kind.is_decoder:
        raise SpecInvalid(f"{server.title} is written for decoder-only models; the folder holds {kind.model_type}")
    if spec.device != "cuda":
        raise SpecInvalid(
            f"{server.title}: its command is written for GPUs, and this was measured on the {spec.device}"
        )
    plain = Setting()
    for name in _ONE_SERVER:
        if getattr(spec, name) != getattr(plain, name):
            raise SpecInvalid(f"{server.title} has no argument for {name}={getattr(spec, name)}")
    meanings = {VllmEngine.name: _OF_VLLM, SglangEngine.name: _OF_SGLANG}.get(spec.engine, _OF_OTHERS)
    options = with_defaults(spec, kind) if spec.engine == VllmEngine.name else dict(spec.options)
    asked: dict[str, OptionValue] = {"caches_prompts": False, "cuts_prompts": meanings is not _OF_OTHERS}
    for name, value in options.items():
        if name not in meanings:
            raise SpecInvalid(f"{server.title} has no argument for option {name} of {spec.engine}")
        asked[meanings[name]] = value
    return asked


def _refuse(server: OwnServer, asked: Mapping[str, OptionValue], *names: str) -> None:
    """Raises SpecInvalid where one of these is asked for otherwise than the server has it."""
    words = {
        "cache_dtype": "the type of the cache",
        "is_eager": "running without CUDA graphs",
        "step_tokens": "the tokens of one step",
    }
    for name in names:
        if asked.get(name, "auto") not in ("auto", False):
            raise SpecInvalid(f"{server.title} has no argument for {words[name]}, and it is {asked[name]}")


WRITERS: Mapping[str, tuple[OwnServer, Callable[[EngineSpec, ModelKind], StartCommand]]] = {
    server.form: (server, writer) for server, writer in ((TRTLLM, trtllm_command), (TGI, tgi_command))
}
"""Form -> the server, and the writer of its start command."""
