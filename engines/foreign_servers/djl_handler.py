"""What model.py of a DJL Serving model folder runs: one of our Backends behind DJL's `handle(inputs)`.

A refused request of a larger batch gets its error as a JSON body with status 200: DJL has one status per batch.
Written by djl_folder.py beside serving.properties; `option.backend`, `option.dtype`, `option.threads` and the
backend's own options come from there. djl_python is DJL Serving's Python side, there in its containers only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engines.api import EngineSpec
from engines.foreign_servers.mms_handler import replies
from engines.server.worker import Loaded, load_of

_SERVER_KEYS = frozenset({
    "model_dir", "model_id", "entryPoint", "handler", "device_id", "rolling_batch",
    "tensor_parallel_degree", "dtype", "threads", "backend", "model_loading_timeout", "predict_timeout",
    "parallel_loading", "output_formatter", "task",
})  # fmt: skip
"""Options that are the server's or have a place of their own; what is left is the backend's."""

OK = 200

_loaded: Loaded | None = None


def handle(inputs: Any) -> Any:
    """DJL Serving's entry point: one call holds up to batch_size requests; an empty call loads the model."""
    from djl_python import Output

    global _loaded
    if _loaded is None:
        _loaded = load(inputs.get_properties())
    if inputs.is_empty():
        return None
    found = replies(_loaded, [item.get_as_json() for item in inputs.get_batches()])
    outputs = Output()
    if len(found) == 1 and found[0].code != OK:  # the only case in which a request's own status can be set
        refusal = json.loads(found[0].body)
        return outputs.error(refusal["message"], code=found[0].code, message=refusal["type"])
    for index, reply in enumerate(found):
        outputs.add_as_json(json.loads(reply.body), key=inputs.get_content().key_at(index))
    return outputs


def load(properties: dict[str, Any]) -> Loaded:
    """The backend that the folder's properties ask for. Raises RuntimeError with the reason it cannot be loaded."""
    threads = str(properties.get("threads", ""))
    spec = {
        "engine": str(properties.get("backend", "t5")),
        "model_dir": str(Path(str(properties.get("model_id") or properties["model_dir"]))),
        "dtype": str(properties.get("dtype", "fp32")),
        "threads": int(threads) if threads.isdecimal() else None,
        "tensor_parallel_degree": int(properties.get("tensor_parallel_degree", 1)),
        "options": {name: value for name, value in properties.items() if name not in _SERVER_KEYS},
    }
    assert set(spec) <= set(EngineSpec.__dataclass_fields__)
    found = load_of({"spec": spec})
    if isinstance(found, tuple):
        raise RuntimeError(f"{found[0]}: {found[1]}")
    return found
