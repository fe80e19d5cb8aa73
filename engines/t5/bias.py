"""T5's relative position bias as one short table per attention head, built once on the host.

The bucket of a distance is Hugging Face's expression in the same fp32 operations, in the same order (16, 32 and 64 sit
exactly on an edge, so the rounding of the logarithm decides). The native attention reads the table; no kernel ever
calls a logarithm.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

LANES = 16

FloatArray = npt.NDArray[np.float32]


def buckets_of(
    relative: npt.NDArray[np.int64], *, bidirectional: bool, buckets: int, max_distance: int
) -> npt.NDArray[np.int64]:
    """The bucket of each relative position (key index - query index). Source: T5Attention._relative_position_bucket."""
    offset = np.zeros_like(relative)
    if bidirectional:
        buckets //= 2
        offset = (relative > 0).astype(np.int64) * buckets
        distance = np.abs(relative)
    else:
        distance = -np.minimum(relative, 0)
    exact = buckets // 2
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
    scaled = np.log(ratio) / np.float32(math.log(max_distance / exact)) * np.float32(buckets - exact)
    far = np.minimum(exact + scaled.astype(np.int64), buckets - 1)
    return offset + np.where(distance < exact, distance, far)


def bias_table(weight: FloatArray, *, bidirectional: bool, max_distance: int) -> FloatArray:
    """[H, 2 W + 32] from relative_attention_bias [buckets, H], W = max_distance.

    Entry e is the bias at relative position clamp(e - W - 16, -W, W); every distance beyond W shares W's bucket.
    """
    window = max_distance
    relative = np.clip(np.arange(2 * window + 2 * LANES) - window - LANES, -window, window)
    index = buckets_of(relative, bidirectional=bidirectional, buckets=weight.shape[0], max_distance=max_distance)
    return np.ascontiguousarray(weight[index].T, dtype=np.float32)
