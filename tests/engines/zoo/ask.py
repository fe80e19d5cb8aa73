"""One engine over the whole zoo in this process: reads {"engine", "folders"} from stdin, writes one JSON line a folder.

Conversions run here instead of in a child each: a child imports torch and transformers anew, 30 times.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from engines.api import EngineSpec, GenerateParams, GenerateRequest
from engines.errors import EngineError
from engines.launching import load_backend, load_engine
from engines.models.conversion import onnx_cache

CONVERTING = (
    "engines.models.conversion.ctranslate2_cache",
    "engines.models.conversion.onnx_cache",
    "engines.adapters.openvino",
)


def here(module: str, function: str, arguments: list[str]) -> None:
    """call_in_child, without the child."""
    getattr(importlib.import_module(module), function)(*arguments)


def answer(engine: str, folder: Path, prompts: list[list[int]]) -> dict[str, Any]:
    """Token ids and their log-probabilities by prompt, and the notes; or the error's class and sentence."""
    spec = EngineSpec(engine=engine, model_dir=folder, dtype="fp32", threads=1, batch_size=len(prompts))
    params = GenerateParams(max_new_tokens=8, return_logprobs=True)
    try:
        load_engine(engine).check(spec)  # type: ignore[attr-defined]
        backend = load_backend(engine)
        facts = backend.load(spec)
        found: list[list[tuple[int, float]]] = [[] for _ in prompts]
        ended = set()
        for events in backend.generate([GenerateRequest(input_ids=tuple(ids), params=params) for ids in prompts]):
            for event in events:
                if event.token_id is not None:
                    found[event.index].append((event.token_id, event.logprob or 0.0))
                if event.finish is not None:
                    ended.add(event.index)
        backend.close()
    except EngineError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Exception as error:  # one folder's fault must not end the others' turn
        return {"error": f"unexpected {type(error).__name__}", "message": str(error)}
    return {"answers": found, "ended": sorted(ended), "notes": facts.notes}


def main() -> None:
    asked = json.load(sys.stdin)
    for name in CONVERTING:
        module = importlib.import_module(name) if name != onnx_cache.__name__ else onnx_cache
        if hasattr(module, "call_in_child"):
            module.call_in_child = here  # type: ignore[attr-defined]
    for name, folder in asked["folders"].items():
        print(json.dumps({"layout": name, **answer(asked["engine"], Path(folder), asked["prompts"])}), flush=True)


if __name__ == "__main__":
    main()
