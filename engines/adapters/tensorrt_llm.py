"""TensorRT-LLM in the LMI containers, which served T5 in 0.27.0 to 0.32.0."""

from __future__ import annotations

from engines.adapters.container_only import ContainerEngine, Generation

_PYTHON = {"engine": "Python", "option.entryPoint": "djl_python.tensorrt_llm", "option.rolling_batch": "disable"}
_MPI = {"engine": "MPI", "option.entryPoint": "djl_python.tensorrt_llm", "option.rolling_batch": "trtllm"}
_NO_T5 = "TensorRT-LLM of this version does not serve T5"


def engine() -> ContainerEngine:
    """The registry's entry."""
    return ContainerEngine(
        name="tensorrt_llm",
        missing="needs an NVIDIA GPU and its container; an endpoint that runs elsewhere is measured with engine attach",
        instead="use container 0.27.0 to 0.32.0, or djl_python.huggingface with option.rolling_batch=disable",
        generations=(
            Generation(since=(0, 25, 0), until=(0, 26, 0), values=_MPI, t5_refusal=_NO_T5),
            Generation(since=(0, 27, 0), until=(0, 29, 0), values=_PYTHON),
            Generation(since=(0, 30, 0), until=(0, 32, 0), values=_MPI),
            Generation(
                since=(0, 33, 0),
                until=(0, 33, 0),
                values=_MPI,
                t5_refusal="its LLM API dropped the T5 test upstream, so T5 counts as unsupported",
            ),
        ),
        dtypes=("fp32", "bf16", "fp16"),
        max_tensor_parallel_degree=8,
        devices=("cuda",),
        refused={"fp16": "T5's FFN output overflows fp16; use bf16"},
        features={
            "model_parallel": "tensor, pipeline",
            "loads_hugging_face": "converted",
            "runtime_partition": "yes",
            "ahead_of_time_partition": "yes",
            "partition_on_cpu_memory": "not known",
            "streaming": "yes",
            "fast_loading": "yes, of built engines",
            "hardware": "NVIDIA GPU",
        },
    )
