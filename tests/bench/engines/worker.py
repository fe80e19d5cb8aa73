"""One engine in a process of its own, driven by lines of JSON: load once, then generate batches and report seconds."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from engines.api import EngineSpec, GenerateParams, GenerateRequest
from engines.launching import load_backend
from tests.bench.engines import llama_t5
from tests.bench.engines.memory import peak_bytes


def main() -> None:
    """argv: engine, dtype, threads, model folder, options as JSON, rows at most. Ends when stdin does."""
    engine, dtype, threads, folder, options, most = sys.argv[1:]
    spec = EngineSpec(
        engine=engine, dtype=dtype, threads=int(threads), model_dir=Path(folder), batch_size=int(most),
        options=json.loads(options),
    )  # fmt: skip
    backend: Any = llama_t5.LlamaT5() if engine == llama_t5.NAME else load_backend(engine)
    began = time.perf_counter()
    facts = backend.load(spec)
    reply(load_s=facts.load_s, all_s=time.perf_counter() - began, effective_dtype=facts.effective_dtype)
    for line in sys.stdin:
        reply(**generate(backend, json.loads(line)))
    backend.close()


def generate(backend: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of wall clock and of this process' CPU for one batch with exactly `new` tokens a row, and the ids."""
    params = GenerateParams(max_new_tokens=job["new"], min_new_tokens=job["new"])
    batch = [GenerateRequest(input_ids=tuple(ids), params=params) for ids in job["batch"]]
    rows: list[list[int]] = [[] for _ in batch]
    cpu, began = time.process_time(), time.perf_counter()
    for events in backend.generate(batch):
        for event in events:
            rows[event.index].append(event.token_id)
    wall = time.perf_counter() - began
    return {"wall_s": wall, "cpu_s": time.process_time() - cpu, "peak_bytes": peak_bytes(), "ids": rows}


def reply(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
