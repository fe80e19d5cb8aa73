"""Overload of an open loop: whether outstanding requests grow until the end, beyond the engine's capacity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from harness.records import RequestRecord
from harness.units import NS_PER_S

MIN_REQUESTS = 40
GROWN_FRAC = 0.05
"""Outstanding requests grew by 5 % of the arrivals of the second half, so answers came 5 % slower than requests ..."""
GROWN_DEVIATIONS = 3.0
"""... and by three standard deviations of a Poisson count of these arrivals, which a stable queue hardly does."""


def overload(chosen: Sequence[RequestRecord]) -> str:
    """'' or the sentence that the rate exceeds the capacity; `chosen`: measured requests by intended send.

    Outstanding requests are counted from the intended send, at the ends of the four quarters of the schedule: they must
    grow in every quarter, and in the second half by more than chance. A stall that ended, or a burst, is no overload.
    Smallest n: 40 requests; an excess of 10 % is detected from 900 on (the growth is a tenth of 450, three deviations
    64).
    """
    n = len(chosen)
    if n < MIN_REQUESTS:
        return ""
    intended = np.array([record.intended_ns for record in chosen], dtype=np.int64)
    done = np.sort(np.array([record.done_ns for record in chosen], dtype=np.int64))
    first_ns, last_ns = int(intended[0]), int(intended[-1])
    ends = [first_ns + (last_ns - first_ns) * quarter // 4 for quarter in range(1, 5)]
    outstanding = [int(np.searchsorted(intended, at, "right") - np.searchsorted(done, at, "right")) for at in ends]
    arrivals = n - int(np.searchsorted(intended, ends[1], "right"))
    grown = outstanding[3] - outstanding[1]
    is_steady = all(later > earlier for earlier, later in pairwise(outstanding))
    if not is_steady or grown <= max(GROWN_FRAC * arrivals, GROWN_DEVIATIONS * float(np.sqrt(arrivals))):
        return ""
    half_s = max(1, last_ns - ends[1]) / NS_PER_S
    return (
        f"rate exceeds capacity: in the second half {arrivals / half_s:.4g} requests/s were due and "
        f"{(arrivals - grown) / half_s:.4g}/s answered, outstanding requests grew from {outstanding[1]} to "
        f"{outstanding[3]}; latencies depend on how long the run lasted, lower the rate"
    )
