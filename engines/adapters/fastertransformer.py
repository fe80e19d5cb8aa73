"""NVIDIA's FasterTransformer, frozen upstream; DJL's containers had it in 0.21.0 to 0.24.0."""

from __future__ import annotations

from engines.adapters.container_only import ContainerEngine, Generation


def engine() -> ContainerEngine:
    """The registry's entry."""
    return ContainerEngine(
        name="fastertransformer",
        missing="retired: its last container is 0.24.0 and no package installs it",
        instead="use engine t5, its heir for T5 here, or ctranslate2; in containers djl_python.huggingface with "
        "option.rolling_batch=disable",
        generations=(Generation(since=(0, 21, 0), until=(0, 24, 0), values={"engine": "FasterTransformer"}),),
        dtypes=("fp32", "bf16", "fp16"),
        max_tensor_parallel_degree=8,
        devices=("cuda",),
        refused={"fp16": "T5's FFN output overflows fp16 in FasterTransformer (garbage on XL, XXL and UL2); use bf16"},
        features={
            "model_parallel": "tensor, pipeline",
            "loads_hugging_face": "yes",
            "runtime_partition": "yes",
            "ahead_of_time_partition": "yes, from 0.22.1",
            "partition_on_cpu_memory": "not known",
            "streaming": "yes, from 0.23.0",
            "fast_loading": "not known",
            "hardware": "NVIDIA GPU",
        },
    )
