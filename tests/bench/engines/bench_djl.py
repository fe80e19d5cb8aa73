"""Our handler under DJL Serving's real Python worker beside our own worker: batches back to back, interleaved.

    python -m tests.bench.engines.bench_djl [--backend t5] [--batch 8] [--rounds 5]

Needs the jar of the worker (DYNO_DJL_WORKER names its folder) and a quiet machine. Both compute the same batches of the
bundled model on one thread each; the table has the medians over the rounds. The aim: at least 0.9 of our own worker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from engines.api import EngineSpec, GenerateParams
from engines.foreign_servers.djl.folder import backend_spec, write_djl_folder
from engines.server.queue import Job
from engines.server.worker_link import WorkerLink
from tests.engines.foreign_servers.djl.djl_worker import WHERE, DjlWorker, djl_worker

MODEL_DIR = Path(__file__).parents[3] / "scenarios" / "assets" / "flan-t5-bench"
PROMPTS = MODEL_DIR.with_name("prompts") / "tasks.jsonl"
NEW_TOKENS = 16
TIMEOUT_S = 120.0
AIM = 0.9


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default="0.34.0", help="of the worker's jar")
    parser.add_argument("--backend", default="t5", help="t5, ctranslate2 or onnxruntime")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, default=100, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not Path(os.environ.get(WHERE, "")).joinpath(f"python-{args.version}.jar").is_file():
        parser.error(f"{WHERE} must name the folder of python-{args.version}.jar (Maven Central, ai.djl.python:python)")
    texts = [json.loads(line)["prompt"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()][: args.batch]
    options = {"backend": args.backend}
    spec = EngineSpec(engine="djl", model_dir=MODEL_DIR, batch_size=args.batch, threads=1, options=options)
    inner = backend_spec(spec)
    link = await WorkerLink.start(inner, 0, lambda jobs: None)
    await link.load(inner, TIMEOUT_S)
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        model = write_djl_folder(inner, Path(folder) / "model", links_weights=True)
        with djl_worker(args.version, model, Path(folder)) as worker:
            loaded = worker.load({"batch_size": str(args.batch)})
            assert loaded.code == 204, loaded
            for number in range(args.rounds + 1):  # the first round warms both up
                rates = (await _ours(link, texts, args.batches), _theirs(worker, texts, args.batches))
                if number:
                    ours.append(rates[0])
                    theirs.append(rates[1])
                    print(f"round {number}: ours {rates[0]:.1f}, DJL's {rates[1]:.1f} requests/s", file=sys.stderr)
    await link.stop(grace_s=5.0)
    ratio = statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
    print(f"{args.backend}, batches of {args.batch}, {args.rounds} rounds of {args.batches}, medians")
    print(f"our own worker             {statistics.median(ours):8.1f} requests/s")
    print(f"DJL's {args.version} worker        {statistics.median(theirs):8.1f} requests/s")
    print(f"ratio                      {ratio:8.3f} (aim: {AIM} or more)")
    return 0 if ratio >= AIM else 1


async def _ours(link: WorkerLink, texts: Sequence[str], batches: int) -> float:
    """Requests per second of our own worker."""
    params = GenerateParams(max_new_tokens=NEW_TOKENS)
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    for _ in range(batches):
        jobs = [Job(job_id=n, text=text, params=params, result=loop.create_future()) for n, text in enumerate(texts)]
        await link.serve_batch(jobs, TIMEOUT_S)
        assert all("text" in job.result.result() for job in jobs)
    return batches * len(texts) / (time.perf_counter() - began)


def _theirs(worker: DjlWorker, texts: Sequence[str], batches: int) -> float:
    """Requests per second of DJL's worker."""
    parameters = {"max_new_tokens": NEW_TOKENS}
    bodies = [json.dumps({"inputs": text, "parameters": parameters}).encode() for text in texts]
    began = time.perf_counter()
    for _ in range(batches):
        answered = worker.ask(*([("data", body)] for body in bodies))
        assert all(b"generated_text" in body for body in answered.bodies(len(texts)))
    return batches * len(texts) / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
