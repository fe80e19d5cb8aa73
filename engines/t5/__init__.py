"""Dynamometer's own T5 engine: Hugging Face folders in, token ids out, no torch and no Python in the hot path.

    import engines.t5 as t5
    m = t5.load(path, dtype="fp32", device="cpu", tensor_parallel_degree=1, threads=None, max_slots=8)
    m.generate(input_ids, max_new_tokens=64)      # list of id lists -> list of new-id lists
    handle = m.submit(ids, t5.Params(max_new_tokens=64)); events = m.step(); m.encode(input_ids); m.close()

See README.md here for the parts, kernels/README.md for the native half.
"""

from __future__ import annotations

from engines.t5.engine import Event, T5Engine, load
from engines.t5.params import Params

__all__ = ["Event", "Params", "T5Engine", "load"]
