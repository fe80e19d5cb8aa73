"""Name -> where the engine lives. One line per engine; nothing is imported until asked for."""

from __future__ import annotations

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
    "fastertransformer": "engines.adapters.fastertransformer:engine",
    "tensorrt_llm": "engines.adapters.tensorrt_llm:engine",
    "neuronx": "engines.adapters.neuronx:engine",
    "multi-model-server": "engines.foreign_servers.multi_model_server:MultiModelServerEngine",
    "torchserve": "engines.foreign_servers.torchserve:TorchServeEngine",
    "sagemaker": "engines.sagemaker.engine:SageMakerEngine",
    "djl": "engines.foreign_servers.djl:DjlEngine",
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


def engine_names() -> tuple[str, ...]:
    """Every engine a scenario may name."""
    return tuple(ENGINES)
