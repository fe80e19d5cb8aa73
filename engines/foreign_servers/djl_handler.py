"""The handler that DJL Serving's Python workers run: one of our backends behind `handle(inputs)`.

A refused request of a larger batch gets its error as a JSON body with status 200: DJL has one status per batch.
Written by djl_folder.py beside serving.properties; `option.backend`, `option.dtype`, `option.threads` and the
backend's own options come from there. djl_python is DJL Serving's Python side, there in its containers only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engines.errors import SpecInvalid
from engines.foreign_servers.mms_handler import replies
from engines.server.worker import Loaded, load_of
from engines.serving_properties.read import spec_from_options

_NOT_FROM_THE_FILE = ("model_dir", "device_id", "backend")
"""What DJL Serving adds, and our own word for the engine; what is left is the file's."""

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
    backend = str(properties.get("backend", "t5"))
    model_dir = Path(str(properties.get("model_id") or properties["model_dir"]))
    options = {name: str(value) for name, value in properties.items() if name not in _NOT_FROM_THE_FILE}
    try:
        spec = spec_from_options(options, backend, model_dir)
    except SpecInvalid as error:
        raise RuntimeError(f"SpecInvalid: {error}") from error
    found = load_of({"spec": spec.as_message()})
    if isinstance(found, tuple):
        raise RuntimeError(f"{found[0]}: {found[1]}")
    return found
