"""What this machine can do and is doing: bandwidth, FMA peak, other load; and the large shapes, from a partition."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from engines.t5 import native
from engines.t5.config import read_config
from engines.t5.packing_plan import plan
from engines.t5.partition import is_partition, partition
from engines.t5.weights import Checkpoint
from tests.bench.engines import shapes

ROOT = Path(__file__).resolve().parents[3]

READ_BYTES = 512 << 20  # far beyond any L3


def busy_s() -> float:
    """CPU seconds the whole machine has spent busy, from /proc/stat."""
    fields = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return float(sum(fields[:3] + fields[5:8])) / float(os.sysconf("SC_CLK_TCK"))


def read_bytes_per_s(threads: int) -> float:
    """Best of five passes over memory on huge pages."""
    block = mmap.mmap(-1, READ_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(block, dtype=np.uint8)
    memory[:] = 1
    library = native.library()
    bench = library.t5k_bench_open(native.forced_isa(), threads)
    seconds = min(library.t5k_op_read(bench, memory.ctypes.data, READ_BYTES, 1) for _ in range(5))
    library.t5k_bench_close(bench)
    return READ_BYTES / float(seconds)


def facts() -> dict[str, Any]:
    """CPU model, cores, ISA, FMA peak and barrier cost."""
    library = native.library()
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    probes = {}
    for threads in (1, 2):
        bench = library.t5k_bench_open(native.forced_isa(), threads)
        probes[threads] = {
            "fma_gflops": library.t5k_op_peak(bench, 0.3) / 1e9,
            "barrier_us": library.t5k_op_barrier(bench, 20000) * 1e6,
        }
        library.t5k_bench_close(bench)
    cores = len(os.sched_getaffinity(0))
    return {"cpu": names[0].split(": ")[-1] if names else "", "cores": cores, "isa": native.isa(), "probes": probes}


def streamed_bytes(folder: Path, dtype: str, exact_head: bool) -> int:
    """Weight bytes that one decode step must read: the decoder without the cross K/V projections, and the head."""
    tensors = plan(read_config(folder), dtype, 1, Checkpoint(folder).names(), exact_head=exact_head)
    skipped = {"cross_kv"} | ({"head"} if exact_head else set())
    return sum(t.size_bytes for t in tensors if t.is_decoder and t.role not in skipped)


_BIG = """
import json, sys, time
import engines.t5 as t5
from tests.bench.engines.memory import peak_bytes
began = time.perf_counter()
model = t5.load(sys.argv[1], dtype=sys.argv[2])
loaded = time.perf_counter() - began
ids = [[7 + i % 900 for i in range(63)] + [1]]
model.generate(ids, max_new_tokens=1)
times = []
for new in (1, 17):
    began = time.perf_counter(); model.generate(ids, max_new_tokens=new, ignore_eos=True)
    times.append(time.perf_counter() - began)
print(json.dumps({"load_s": loaded, "first_token_s": times[0], "tokens_per_s": 16 / (times[1] - times[0]),
                  "peak_bytes": peak_bytes(), "weight_bytes": model.weight_bytes}))
"""


def run_big(model: str, dtype: str, work: Path) -> dict[str, Any]:
    """Write the shape (bf16 on disk), partition it, load the partition in a fresh process, generate 16 tokens."""
    folder = shapes.write(model, work / model, dtype="BF16")
    packed = work / f"{model}-{dtype}"
    if not is_partition(packed):
        partition(folder, dtype, 1, packed)
    command = [sys.executable, "-c", _BIG, str(packed), dtype]
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    result: dict[str, Any] = json.loads(done.stdout)
    return {"model": model, "dtype": dtype, **result}
