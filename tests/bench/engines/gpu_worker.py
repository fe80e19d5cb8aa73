"""One engine on a GPU, in a process of its own, driven by lines of JSON: load once, then timed batches.

argv: engine, model folder, dtype, tensor-parallel degree, device. `cuda-sim` puts ours on the emulator and rivals on
the CPU, so that every line here runs where there is no GPU. TensorRT-LLM has no such place: its lines were never run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.engines.memory import peak_bytes

Rows = list[list[int]]
Generate = Callable[[Rows, int], Rows]
"""Ids of a batch and the number of new tokens -> exactly that many new ids a row."""

ENGINES = ("t5", "transformers", "ctranslate2", "tensorrt_llm")


def missing(engine: str, device: str) -> str:
    """Why an engine cannot run on `device` here, or ''. Imports what it asks about."""
    try:
        return CHECKS[engine](device)
    except ImportError as error:
        return f"not installed: {error}"


def _no_t5(device: str) -> str:
    from engines.t5 import cuda

    return cuda.missing(device)


def _no_torch(device: str) -> str:
    import torch
    import transformers  # noqa: F401

    return "" if device == "cuda-sim" or torch.cuda.is_available() else f"torch {torch.__version__} sees no GPU"


def _no_ctranslate2(device: str) -> str:
    import ctranslate2

    has_gpu = device == "cuda-sim" or ctranslate2.get_cuda_device_count() > 0
    return "" if has_gpu else f"ctranslate2 {ctranslate2.__version__} sees no GPU"


def _no_trt(device: str) -> str:
    import tensorrt_llm  # noqa: F401

    return "" if device == "cuda" else "needs a GPU"


CHECKS = dict(zip(ENGINES, (_no_t5, _no_torch, _no_ctranslate2, _no_trt), strict=True))


def load_t5(folder: Path, dtype: str, degree: int, device: str) -> Generate:
    from engines import t5

    engine = t5.load(folder, dtype=dtype, tensor_parallel_degree=degree, device=device)
    return lambda batch, new: engine.generate(batch, max_new_tokens=new, ignore_eos=True)


def load_transformers(folder: Path, dtype: str, degree: int, device: str) -> Generate:
    import torch
    from transformers import T5ForConditionalGeneration

    if degree > 1:
        raise RuntimeError("transformers: this bench runs it on one GPU")
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if dtype not in kinds:
        raise RuntimeError(f"transformers: no {dtype} here")
    where = "cpu" if device == "cuda-sim" else "cuda"
    model = T5ForConditionalGeneration.from_pretrained(folder, dtype=kinds[dtype]).to(where).eval()

    def generate(batch: Rows, new: int) -> Rows:
        width = max(map(len, batch))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in batch], device=where)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=where)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, num_beams=1
            )
        rows: Rows = out[:, 1:].tolist()
        return rows

    return generate


def load_ctranslate2(folder: Path, dtype: str, degree: int, device: str) -> Generate:
    import ctranslate2

    from engines.cache_folder import cache_root
    from engines.models.conversion.ctranslate2_cache import converted

    if degree > 1:
        raise RuntimeError("ctranslate2: shards decoder-only models only")
    kinds = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
    if dtype not in kinds:
        raise RuntimeError(f"ctranslate2: no {dtype} for T5")
    model = converted(folder, kinds[dtype], cache_root())
    where = "cpu" if device == "cuda-sim" else "cuda"
    translator = ctranslate2.Translator(str(model), device=where, compute_type=kinds[dtype])

    def generate(batch: Rows, new: int) -> Rows:
        source = [[str(token) for token in row] for row in batch]
        found = translator.translate_batch(source, beam_size=1, max_decoding_length=new, min_decoding_length=new)
        return [[int(token) for token in each.hypotheses[0]] for each in found]

    return generate


def load_tensorrt_llm(folder: Path, dtype: str, degree: int, device: str) -> Generate:
    from tensorrt_llm import LLM, SamplingParams

    kinds = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    if dtype not in kinds:
        raise RuntimeError(f"tensorrt_llm: no {dtype} here")
    llm = LLM(model=str(folder), dtype=kinds[dtype], tensor_parallel_size=degree, skip_tokenizer_init=True)

    def generate(batch: Rows, new: int) -> Rows:
        params = SamplingParams(max_tokens=new, min_tokens=new, end_id=-1, top_k=1)
        return [list(each.outputs[0].token_ids) for each in llm.generate(batch, params)]

    return generate


LOADERS = dict(zip(ENGINES, (load_t5, load_transformers, load_ctranslate2, load_tensorrt_llm), strict=True))


def main() -> None:
    engine, folder, dtype, degree, device = sys.argv[1:]
    began = time.perf_counter()
    generate = LOADERS[engine](Path(folder), dtype, int(degree), device)
    reply(load_s=time.perf_counter() - began)
    for line in sys.stdin:
        job = json.loads(line)
        began = time.perf_counter()
        rows = generate(job["batch"], job["new"])
        reply(wall_s=time.perf_counter() - began, ids=rows, host_peak_bytes=peak_bytes())


def reply(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
