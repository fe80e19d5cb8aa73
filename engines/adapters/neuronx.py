"""AWS Transformers NeuronX (Inferentia 2, Trainium) in the LMI containers; its handler was spelled in three ways."""

from __future__ import annotations

from engines.adapters.container_only import ContainerEngine, Generation

_NO_T5 = "transformers-neuronx serves decoder-only models, and T5 is none"


def _values(handler: str) -> dict[str, str]:
    return {"engine": "Python", "option.entryPoint": f"djl_python.{handler}"}


def engine() -> ContainerEngine:
    """The registry's entry."""
    return ContainerEngine(
        name="neuronx",
        missing="needs an AWS Inferentia 2 or Trainium device and its container",
        instead="serve T5 with engine t5 or transformers on CPU or GPU",
        generations=(
            Generation(since=(0, 21, 0), until=(0, 21, 0), values=_values("transformer-neuronx"), t5_refusal=_NO_T5),
            Generation(since=(0, 22, 0), until=(0, 23, 0), values=_values("transformers-neuronx"), t5_refusal=_NO_T5),
            Generation(since=(0, 24, 0), until=(0, 29, 0), values=_values("transformers_neuronx"), t5_refusal=_NO_T5),
        ),
        dtypes=("fp32", "bf16", "fp16"),
        max_tensor_parallel_degree=24,
        devices=("neuron",),
        features={
            "model_parallel": "tensor",
            "loads_hugging_face": "decoder-only",
            "runtime_partition": "yes",
            "ahead_of_time_partition": "compiled graphs, from 0.25.0",
            "partition_on_cpu_memory": "not known",
            "streaming": "yes",
            "fast_loading": "not known",
            "hardware": "AWS Inferentia 2, Trainium",
        },
    )
