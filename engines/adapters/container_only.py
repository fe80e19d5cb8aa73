"""Engines that exist only inside AWS's containers, never launched here: their features, and what to use instead.

From the containers' documentation, not from a run. Which container version has which of them, and the keys it reads,
stands in the table of containers (harness/properties/keys.toml).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from engines.api import Availability, Capabilities, EngineSpec, RunningEngine
from engines.errors import Unavailable
from engines.setting import DTYPES

_FP16_OVERFLOWS = "T5's FFN output overflows fp16 in it (garbage on XL, XXL and UL2); use bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEngine:
    """What is known about one of them. `instead` ends every refusal; `refused`: dtype -> why not to use it."""

    name: str
    missing: str
    instead: str
    max_tensor_parallel_degree: int
    devices: tuple[str, ...]
    features: Mapping[str, str]
    dtypes: tuple[str, ...] = ("fp32", "bf16", "fp16")
    refused: Mapping[str, str] = field(default_factory=dict)

    def probe(self) -> Availability:
        """Never available: `missing` states what would be needed."""
        return Availability(is_available=False, reason=f"{self.missing}; {self.instead}")

    def capabilities(self) -> Capabilities:
        """What it takes inside its container."""
        reasons = {
            dtype: f"{self.name} in the containers takes {', '.join(self.dtypes)}"
            for dtype in DTYPES
            if dtype not in self.dtypes
        }
        return Capabilities(
            effective_dtypes={dtype: dtype for dtype in self.dtypes},
            max_tensor_parallel_degree=self.max_tensor_parallel_degree,
            devices=self.devices,
            reasons={**reasons, **self.refused},
            features=self.features,
        )

    def launch(self, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> AbstractContextManager[RunningEngine]:
        """Raises Unavailable."""
        raise Unavailable(f"{self.name} cannot run here: {self.probe().reason}")


def fastertransformer() -> ContainerEngine:
    """NVIDIA's FasterTransformer, frozen upstream; DJL's containers had it in 0.21.0 to 0.24.0."""
    return ContainerEngine(
        name="fastertransformer",
        missing="retired: its last container is 0.24.0 and no package installs it",
        instead="use engine t5, its heir for T5 here, or ctranslate2; in containers djl_python.huggingface with "
        "option.rolling_batch=disable",
        max_tensor_parallel_degree=8,
        devices=("cuda",),
        refused={"fp16": _FP16_OVERFLOWS},
        features={
            "model_parallel": "tensor, pipeline",
            "loads_hugging_face": "yes",
            "runtime_partition": "yes",
            "ahead_of_time_partition": "yes, from 0.22.1",
            "partition_on_cpu_memory": "not known",
            "streaming": "yes, from 0.23.0",
            "fast_loading": "not known",
            "hardware": "NVIDIA GPU",
            "model_kinds": "T5, decoder-only",
            "openai": "not known",
        },
    )


def tensorrt_llm() -> ContainerEngine:
    """TensorRT-LLM in the LMI containers, which served T5 in 0.27.0 to 0.32.0."""
    return ContainerEngine(
        name="tensorrt_llm",
        missing="needs an NVIDIA GPU and its container; an endpoint that runs elsewhere is measured with engine attach",
        instead="use container 0.27.0 to 0.32.0, or djl_python.huggingface with option.rolling_batch=disable",
        max_tensor_parallel_degree=8,
        devices=("cuda",),
        refused={"fp16": _FP16_OVERFLOWS},
        features={
            "model_parallel": "tensor, pipeline",
            "loads_hugging_face": "converted",
            "runtime_partition": "yes",
            "ahead_of_time_partition": "yes",
            "partition_on_cpu_memory": "not known",
            "streaming": "yes",
            "fast_loading": "yes, of built engines",
            "hardware": "NVIDIA GPU",
            "model_kinds": "T5, decoder-only",
            "openai": "not known",
        },
    )


def neuronx() -> ContainerEngine:
    """AWS Transformers NeuronX (Inferentia 2, Trainium) in the LMI containers; it serves decoder-only models."""
    return ContainerEngine(
        name="neuronx",
        missing="needs an AWS Inferentia 2 or Trainium device and its container",
        instead="serve T5 with engine t5 or transformers on CPU or GPU",
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
            "model_kinds": "decoder-only",
            "openai": "not known",
        },
    )
