"""The registry of engines: tables from an engine's name to the class that launches it, its backend and its traits."""

from __future__ import annotations

from engines.api import Traits
from engines.least_memory import LeastMemory

ENGINES: dict[str, str] = {
    "fake": "engines.adapters.fake:FakeEngine",
    "attach": "engines.adapters.attach:AttachEngine",
    "transformers": "engines.adapters.transformers:TransformersEngine",
    "accelerate": "engines.adapters.accelerate:AccelerateEngine",
    "deepspeed": "engines.adapters.deepspeed:DeepSpeedEngine",
    "ctranslate2": "engines.adapters.ctranslate2:CTranslate2Engine",
    "onnxruntime": "engines.adapters.onnxruntime:OnnxRuntimeEngine",
    "openvino": "engines.adapters.openvino:OpenVinoEngine",
    "t5": "engines.t5.backend:T5HostedEngine",
    "fastertransformer": "engines.adapters.not_launched:fastertransformer",
    "tensorrt_llm": "engines.adapters.not_launched:tensorrt_llm",
    "neuronx": "engines.adapters.not_launched:neuronx",
    "multi-model-server": "engines.foreign_servers.java_servers.multi_model_server:MultiModelServerEngine",
    "sagemaker": "engines.sagemaker.engine:SageMakerEngine",
    "djl": "engines.foreign_servers.djl.engine:DjlEngine",
    "llamacpp": "engines.foreign_servers.llamacpp.engine:LlamaCppEngine",
    "vllm": "engines.foreign_servers.python_servers.vllm:VllmEngine",
    "sglang": "engines.foreign_servers.python_servers.sglang:SglangEngine",
    "transformers_serve": "engines.foreign_servers.python_servers.transformers_serve:TransformersServeEngine",
    "trtllm_serve": "engines.adapters.not_launched:trtllm_serve",
    "tgi": "engines.adapters.not_launched:tgi",
}

BACKENDS: dict[str, str] = {
    "fake": "engines.adapters.fake:FakeBackend",
    "transformers": "engines.adapters.transformers:TransformersBackend",
    "accelerate": "engines.adapters.accelerate:AccelerateBackend",
    "deepspeed": "engines.adapters.deepspeed:DeepSpeedBackend",
    "ctranslate2": "engines.adapters.ctranslate2:CTranslate2Backend",
    "onnxruntime": "engines.adapters.onnxruntime:OnnxRuntimeBackend",
    "openvino": "engines.adapters.openvino:OpenVinoBackend",
    "t5": "engines.t5.backend:T5Backend",
}

REMOVED: dict[str, str] = {
    "torchserve": "it was removed, because its upstream was archived in 2025; use multi-model-server",
}
"""Engines that scenarios once could name, and what to do now."""

REFERENCE_ENGINE = "transformers"
"""Hugging Face eager fp32 defines the right answers; every other engine is compared with it."""
REFERENCE_PACKAGES = ("torch", "transformers")
"""Its packages, so that a check need not import it."""

ATTACHED_ENGINE = "attach"
"""A server that somebody else started, measured or asked as it is found."""

HF_ENTRY_POINT = "djl_python.huggingface"
"""DJL's own handler for Hugging Face models, in every container."""

_DECODERS = ("decoder",)

TRAITS: dict[str, Traits] = {
    "fake": Traits(needs_reference=False),
    "t5": Traits(is_ours=True, is_carried=True),
    "attach": Traits(is_elsewhere=True, may_cache_prompts=True, takes_request=True),
    "sagemaker": Traits(is_rented=True),
    "djl": Traits(has_own_front=True, has_model_folder=True),
    "multi-model-server": Traits(has_own_front=True),
    "llamacpp": Traits(
        has_own_front=True,
        has_start_file=True,
        takes_request=True,
        prompt_cache_option="cache_prompt",
        model_kinds=_DECODERS,
        least_memory=LeastMemory(
            type_options=("cache_type_k", "cache_type_v"),
            context_option="context",
            usual_context=4096,
            rows_option="n_parallel",
            usual_rows=32,
            is_mapped=True,
        ),
    ),
    "vllm": Traits(
        has_own_front=True,
        has_start_file=True,
        takes_request=True,
        container_rolling_batch="vllm",
        prompt_cache_option="enable_prefix_caching",
        model_kinds=_DECODERS,
        least_memory=LeastMemory(
            type_options=("kv_cache_dtype",),
            share_option="gpu_memory_utilization",
            context_option="max_model_len",
            usual_context=4096,
            smaller_by=("quantization", "load_format", "cpu_offload_gb", "offload_group_size", "offload_num_in_group"),
            unknown_by=(
                "pipeline_parallel_size",
                "decode_context_parallel_size",
                "prefill_context_parallel_size",
                "hf_overrides",
                "kv_cache_memory_bytes",
            ),
        ),
    ),
    "sglang": Traits(
        has_own_front=True,
        has_start_file=True,
        takes_request=True,
        prompt_cache_option="radix_cache",
        model_kinds=_DECODERS,
        least_memory=LeastMemory(
            type_options=("kv_cache_dtype",),
            share_option="mem_fraction_static",
            smaller_by=(
                "quantization",
                "torchao_config",
                "modelopt_quant",
                "quantize_and_serve",
                "rl_quant_profile",
                "load_format",
                "cpu_offload_gb",
                "offload_group_size",
                "offload_num_in_group",
            ),
            unknown_by=(
                "pp_size",
                "dcp_size",
                "attn_cp_size",
                "json_model_override_args",
                "decrypted_config_file",
                "prefill_only_disable_kv_cache",
            ),
        ),
    ),
    "transformers_serve": Traits(has_own_front=True, has_start_file=True, takes_request=True, model_kinds=_DECODERS),
    "trtllm_serve": Traits(has_own_front=True, takes_request=True, model_kinds=_DECODERS),
    "tgi": Traits(has_own_front=True, takes_request=True, model_kinds=_DECODERS),
    "torchserve": Traits(has_own_front=True),  # stored runs name it
    "transformers": Traits(container_entry_point=HF_ENTRY_POINT),
    "openvino": Traits(is_carried=True),
    "ctranslate2": Traits(container_python=(3, 9), container_weights="ct2/ (the converted model)"),
    "onnxruntime": Traits(container_python=(3, 11), container_weights="onnx/ (the exported graphs)"),
}
"""Engines that differ from an ordinary one; `container_python` is the Requires-Python of the pinned wheels."""


def traits(name: str) -> Traits:
    """What the engine called `name` is; an ordinary one where nothing is known (a stored run may name any)."""
    return TRAITS.get(name, Traits())


def engine_names() -> tuple[str, ...]:
    """Every engine a scenario may name."""
    return tuple(ENGINES)
