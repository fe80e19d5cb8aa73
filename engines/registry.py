"""Name -> where the engine lives. One line per engine; nothing is imported until asked for."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import cast

from engines.api import Backend, Engine
from engines.errors import SpecInvalid

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


def engine_here(name: str) -> Engine:
    """The engine called `name` in this environment. Raises SpecInvalid with the nearest known name."""
    return cast(Engine, _load(ENGINES, name, "engine")())


def load_engine(name: str, python: str | None = None) -> Engine:
    """The engine called `name`, in the environment that `python` names (see environments); without a name, here, or
    from its installed environment where its packages are missing here. Raises SpecInvalid, Unavailable."""
    engine = engine_here(name)
    from engines.environments.locate import serving_python
    from engines.hosted import HostedEngine

    if python and not isinstance(engine, HostedEngine):
        raise SpecInvalid(f"{name}: python {python!r} refused: this engine starts no Python process of its own")
    place = serving_python(name, python)
    if place is None or not isinstance(engine, HostedEngine):
        return engine
    from engines.environments.remote_engine import ElsewhereEngine

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
