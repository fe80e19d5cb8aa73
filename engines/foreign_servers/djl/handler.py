"""The handler that DJL Serving's Python workers run: one of our backends behind `handle(inputs)`.

A refused request of a larger batch gets its error as a JSON body with status 200: DJL has one status per batch, and one
set of headers, so the token counts of an answer are always in its details, and in a header where it was alone.
Written by folder.py beside serving.properties; what to load stands in backend.json there, and nothing else of it is
read from the server's properties. djl_python is DJL Serving's Python side, there in its containers only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.api import EngineSpec
from engines.foreign_servers.djl.folder import SPEC_FILE
from engines.foreign_servers.java_servers.mms_handler import replies
from engines.server.worker import Loaded, load_of

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
    # A request's query parameters and form fields are entries of its content too, so entries are not requests.
    found = replies(_loaded, [bytes(item.get_as_bytes() or b"") for item in inputs.get_batches()], has_counts=True)
    outputs = Output()
    if len(found) == 1 and found[0].code != OK:  # the only case in which a request's own status can be set
        refusal = json.loads(found[0].body)
        return outputs.error(refusal["message"], code=found[0].code, message=refusal["type"])
    outputs.add_property("Content-Type", "application/json")
    if len(found) == 1:
        outputs.add_property("x-dyno-tokens", str(found[0].output_tokens))
        outputs.add_property("x-dyno-input-tokens", str(found[0].input_tokens))
    for index, reply in enumerate(found):
        outputs.add(reply.body, batch_index=index if len(found) > 1 else None)
    return outputs


def load(properties: Mapping[str, Any]) -> Loaded:
    """The backend of the folder that the properties name. Raises RuntimeError with the reason it cannot be loaded."""
    beside = Path(str(properties["model_dir"]))
    model_dir = Path(str(properties.get("model_id") or beside))  # where DJL has put option.model_id=s3://...
    try:
        message = json.loads((beside / SPEC_FILE).read_text(encoding="utf-8"))
        spec = EngineSpec.from_message({**message, "model_dir": str(model_dir)})
    except (OSError, ValueError, TypeError) as error:
        raise RuntimeError(f"{beside / SPEC_FILE}: {error}; write the folder again with this version") from error
    found = load_of({"spec": spec.as_message()})
    if isinstance(found, tuple):
        raise RuntimeError(f"{found[0]}: {found[1]}")
    return found
