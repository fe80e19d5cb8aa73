"""Engines that are known from their documents and never launched here: what they can do, and what to use instead.

Some exist only inside AWS's containers: which container version has which of them, and the keys it reads, stands in the
table of containers (harness/properties/keys.toml). Of the others `dyno recommend` writes the start command
(engines/foreign_servers/written_commands.py). No word of either was run.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from engines.api import Availability, Capabilities, EngineSpec, RunningEngine
from engines.errors import Unavailable
from engines.hosted import SHARDED_FEATURES
from engines.models.checkpoint.kind import DECODER
from engines.setting import DTYPES

_FP16_OVERFLOWS = "T5's FFN output overflows fp16 in it (garbage on XL, XXL and UL2); use bf16"
_ANY_DEGREE = 1 << 8
_FEATURES = {
    **SHARDED_FEATURES,
    "partition_on_cpu_memory": "not known",
    "fast_loading": "not known",
    "hardware": "NVIDIA GPU",
    "openai": "not known",
}
"""What most of them state; each names what differs."""
_OF_SERVERS = {
    "hardware": "NVIDIA GPU (not yet run)",
    "model_kinds": "decoder-only",
    "openai": "completions, chat",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NotLaunched:
    """What is known of one of them: `found`, why it is not here and what to use instead; `able`, what it can do where
    it is."""

    name: str
    found: Availability
    able: Capabilities

    @property
    def features(self) -> Mapping[str, str]:
        """Answers to FEATURES, for the table of engines."""
        return self.able.features

    def probe(self) -> Availability:
        """Never available."""
        return self.found

    def capabilities(self) -> Capabilities:
        """What its documents state."""
        return self.able

    def launch(self, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> AbstractContextManager[RunningEngine]:
        """Raises Unavailable."""
        raise Unavailable(f"{self.name} cannot run here: {self.found.reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnServer:
    """A server of another project for decoder-only models on GPUs, whose start command is written and not run. `title`
    is its own name, `form` the word of `dyno recommend --format`, `read_in` the version whose words these are."""

    name: str
    title: str
    form: str
    read_in: str


TRTLLM = OwnServer(name="trtllm_serve", title="trtllm-serve", form="trtllm-serve-command", read_in="TensorRT-LLM 1.x")
TGI = OwnServer(name="tgi", title="TGI", form="tgi-command", read_in="TGI 3")


def fastertransformer() -> NotLaunched:
    """NVIDIA's FasterTransformer, frozen upstream; DJL's containers had it in 0.21.0 to 0.24.0."""
    return _in_containers(
        "fastertransformer",
        "retired: its last container is 0.24.0 and no package installs it; use engine t5, its heir for T5 here, or "
        "ctranslate2; in containers djl_python.huggingface with option.rolling_batch=disable",
        refused={"fp16": _FP16_OVERFLOWS},
        features={
            "model_parallel": "tensor, pipeline",
            "ahead_of_time_partition": "yes, from 0.22.1",
            "streaming": "yes, from 0.23.0",
        },
    )


def tensorrt_llm() -> NotLaunched:
    """TensorRT-LLM in the LMI containers, which served T5 in 0.27.0 to 0.32.0."""
    return _in_containers(
        "tensorrt_llm",
        "needs an NVIDIA GPU and its container; an endpoint that runs elsewhere is measured with engine attach; use "
        "container 0.27.0 to 0.32.0, or djl_python.huggingface with option.rolling_batch=disable",
        refused={"fp16": _FP16_OVERFLOWS},
        features={
            "model_parallel": "tensor, pipeline",
            "loads_hugging_face": "converted",
            "ahead_of_time_partition": "yes",
            "fast_loading": "yes, of built engines",
        },
    )


def neuronx() -> NotLaunched:
    """AWS Transformers NeuronX (Inferentia 2, Trainium) in the LMI containers; it serves decoder-only models."""
    return _in_containers(
        "neuronx",
        "needs an AWS Inferentia 2 or Trainium device and its container; "
        "serve T5 with engine t5 or transformers on CPU or GPU",
        max_tensor_parallel_degree=24,
        devices=("neuron",),
        features={
            "loads_hugging_face": "decoder-only",
            "ahead_of_time_partition": "compiled graphs, from 0.25.0",
            "hardware": "AWS Inferentia 2, Trainium",
            "model_kinds": "decoder-only",
        },
    )


def trtllm_serve() -> NotLaunched:
    """TensorRT-LLM's own server, on its PyTorch backend."""
    return _own_server(TRTLLM, features={"model_parallel": "tensor, pipeline"})


def tgi() -> NotLaunched:
    """Hugging Face's Text Generation Inference."""
    return _own_server(TGI, features={})


def _in_containers(
    name: str,
    why: str,
    *,
    max_tensor_parallel_degree: int = 8,
    devices: tuple[str, ...] = ("cuda",),
    refused: Mapping[str, str] = MappingProxyType({}),
    features: Mapping[str, str],
) -> NotLaunched:
    """An engine of AWS's containers. `refused`: dtype -> why not to use it; one that it lacks has a reason too."""
    dtypes = ("fp32", "bf16", "fp16")
    takes = f"{name} in the containers takes {', '.join(dtypes)}"
    return NotLaunched(
        name=name,
        found=Availability(is_available=False, reason=why),
        able=Capabilities(
            effective_dtypes={dtype: dtype for dtype in dtypes},
            max_tensor_parallel_degree=max_tensor_parallel_degree,
            devices=devices,
            reasons={**{dtype: takes for dtype in DTYPES if dtype not in dtypes}, **refused},
            features={**_FEATURES, **features},
        ),
    )


def _own_server(server: OwnServer, features: Mapping[str, str]) -> NotLaunched:
    """A server that is measured where somebody else started it."""
    return NotLaunched(
        name=server.name,
        found=Availability(
            is_available=False,
            reason=f"nothing here starts {server.title} yet: measure one that runs with engine attach, options.server: "
            f"{server.name}; `dyno recommend --format {server.form}` writes its start command",
            note=f"{server.title} was not yet run here",
        ),
        able=Capabilities(
            effective_dtypes={"bf16": "bf16", "fp16": "fp16"},
            max_tensor_parallel_degree=_ANY_DEGREE,
            has_rolling_batch=True,
            devices=("cuda",),
            features={**_FEATURES, **_OF_SERVERS, **features},
            model_kinds=(DECODER,),
        ),
    )
