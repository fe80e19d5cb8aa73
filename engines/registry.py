"""Name -> where the engine lives. One line per engine; nothing is imported until asked for."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import cast

from engines.api import Backend, Engine
from engines.errors import SpecInvalid

ENGINES: dict[str, str] = {
    "fake": "engines.fake:FakeEngine",
    "attach": "engines.attach:AttachEngine",
    "transformers": "engines.transformers:TransformersEngine",
    "accelerate": "engines.accelerate:AccelerateEngine",
    "deepspeed": "engines.deepspeed:DeepSpeedEngine",
    "ctranslate2": "engines.ctranslate2:CTranslate2Engine",
    "onnxruntime": "engines.onnxruntime:OnnxRuntimeEngine",
    "openvino": "engines.openvino:OpenVinoEngine",
    "t5": "engines.t5.backend:T5HostedEngine",
    "fastertransformer": "engines.fastertransformer:engine",
    "tensorrt_llm": "engines.tensorrt_llm:engine",
    "neuronx": "engines.neuronx:engine",
    "multi-model-server": "engines.multi_model_server:MultiModelServerEngine",
    "torchserve": "engines.torchserve:TorchServeEngine",
    "sagemaker": "engines.sagemaker.engine:SageMakerEngine",
    "djl": "engines.djl:DjlEngine",
}

BACKENDS: dict[str, str] = {
    "fake": "engines.fake:FakeBackend",
    "transformers": "engines.transformers:TransformersBackend",
    "accelerate": "engines.accelerate:AccelerateBackend",
    "deepspeed": "engines.deepspeed:DeepSpeedBackend",
    "ctranslate2": "engines.ctranslate2:CTranslate2Backend",
    "onnxruntime": "engines.onnxruntime:OnnxRuntimeBackend",
    "openvino": "engines.openvino:OpenVinoBackend",
    "t5": "engines.t5.backend:T5Backend",
}


def engine_names() -> tuple[str, ...]:
    """Every engine a scenario may name."""
    return tuple(ENGINES)


def engine_here(name: str) -> Engine:
    """The engine called `name` in this environment. Raises SpecInvalid with the nearest known name."""
    return cast(Engine, _load(ENGINES, name, "engine")())


def load_engine(name: str, python: str | None = None) -> Engine:
    """The engine called `name`, in the environment that `python` names (see environments); without a name, here, or
    from its installed environment where its packages are missing here. Raises SpecInvalid, Unavailable."""
    engine = engine_here(name)
    from engines.environments import serving_python
    from engines.server.hosted import HostedEngine

    if python and not isinstance(engine, HostedEngine):
        raise SpecInvalid(f"{name}: python {python!r} refused: this engine starts no Python process of its own")
    place = serving_python(name, python)
    if place is None or not isinstance(engine, HostedEngine):
        return engine
    from engines.elsewhere import ElsewhereEngine

    return ElsewhereEngine(engine, place)


def load_backend(name: str) -> Backend:
    """A fresh, unloaded Backend of the engine called `name`. Raises SpecInvalid with the nearest known name."""
    return cast(Backend, _load(BACKENDS, name, "backend")())


def _load(table: dict[str, str], name: str, kind: str) -> type:
    if name not in table:
        near = get_close_matches(name, table, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecInvalid(f"unknown {kind} {name!r}; known: {', '.join(table)}{hint}")
    module_name, _, attribute = table[name].partition(":")
    return cast(type, getattr(import_module(module_name), attribute))
