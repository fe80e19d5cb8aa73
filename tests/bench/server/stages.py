"""What each stage of a request costs, by CPU time, in this process: the functions that the server itself calls.

Beside them the engine alone: the same prompts with so many in flight, no server around it.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import engines.t5 as t5
from engines.api import GenerateParams
from engines.models.tokenizer import Tokenizer
from engines.server.answers import Answer, shape
from engines.server.body import parse_body
from engines.server.wire import pack
from tests.bench.server.loads import MODEL_DIR, texts

ROUNDS = 3


def stages(calls: int = 2000) -> dict[str, float]:
    """Stage -> microseconds of one request, the least of a few rounds."""
    codec = Tokenizer.load(MODEL_DIR)
    prompts = texts()
    bodies = [json.dumps({"inputs": text, "parameters": {}}).encode() for text in prompts]
    job = {"id": 1, "params": asdict(GenerateParams()), "wants_stream": False, "wants_details": False, "ids": ()}
    jobs = [{**job, "text": text} for text in prompts]
    frames = [pack({"kind": "admit", "job": each})[4:] for each in jobs]
    ids = [codec.encode(text) for text in prompts]
    done = {"kind": "done", "job": 1, "text": prompts[0], "input_tokens": 20, "generated_tokens": 20}
    reply = pack(done | {"finish_reason": "eos"})[4:]
    each: dict[str, Callable[[int], object]] = {
        "parse the body (front)": lambda n: parse_body(bodies[n % len(bodies)]),
        "tokenise (worker)": lambda n: codec.encode(prompts[n % len(prompts)]),
        "job to worker: write (front)": lambda n: pack({"kind": "admit", "job": jobs[n % len(jobs)]}),
        "job to worker: read (worker)": lambda n: json.loads(frames[n % len(frames)]),
        "job to request, without tokenising (worker)": lambda n: Answer(job | {"text": "", "ids": ids[0]}, codec),
        "detokenise (worker)": lambda n: codec.decode(ids[n % len(ids)]),
        "answer to front: write (worker)": lambda n: pack(done),
        "answer to front: read (front)": lambda n: json.loads(reply),
        "answer's body (front)": lambda n: json.dumps(shape(done, False)),
    }
    return {name: min(_us(call, calls) for _ in range(ROUNDS)) for name, call in each.items()}


def _us(call: Callable[[int], object], calls: int) -> float:
    began = time.thread_time()
    for n in range(calls):
        call(n)
    return (time.thread_time() - began) / calls * 1e6


class EngineAlone:
    """The bundled model, int8, on one thread, in this process."""

    def __init__(self) -> None:
        codec = Tokenizer.load(MODEL_DIR)
        self._ids = [codec.encode(text) for text in texts()]
        self._engine = t5.load(MODEL_DIR, dtype="int8", threads=1, max_slots=32)
        self.cpu_us(1, 50)

    def cpu_us(self, in_flight: int, requests: int) -> float:
        """CPU microseconds of one request with so many in flight."""
        source, left, running = itertools.cycle(self._ids), requests, 0
        began = time.process_time()
        while left or running:
            while left and running < in_flight:
                self._engine.submit(next(source))
                left, running = left - 1, running + 1
            running -= sum(event.finish is not None for event in self._engine.step(16))
        return (time.process_time() - began) / requests * 1e6

    def latencies_ms(self, requests: int) -> Sequence[float]:
        """Wall time of one call after the other."""
        found = []
        for ids in itertools.islice(itertools.cycle(self._ids), requests):
            began = time.perf_counter()
            self._engine.generate([ids])
            found.append((time.perf_counter() - began) * 1e3)
        return found
