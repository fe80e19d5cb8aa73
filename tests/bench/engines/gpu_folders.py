"""Model folders for bench_gpu.py, written in a process of its own, so that a time limit can end it.

argv: work folder, model, [name of our partition], dtype, tensor-parallel degree, ["tiny"]. Random weights; ours are
partitioned once, so that loading is mapping.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engines.t5.partition import is_partition, partition
from tests.bench.engines import shapes


def main(arguments: list[str]) -> None:
    if arguments[-1] == "tiny":
        shapes.make_tiny()
        arguments = arguments[:-1]
    work, model, *packed, dtype, degree = arguments
    folder = shapes.write(model, Path(work) / model, dtype="BF16")
    if packed:
        target = Path(work) / packed[0]
        if not is_partition(target):
            partition(folder, dtype, int(degree), target)
        folder = target
    print(json.dumps({"folder": str(folder)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
