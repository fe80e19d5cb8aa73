"""The search for the maximum rate that still meets a bound: next rate to probe, by bracketing, then bisection."""

from __future__ import annotations

import math

FIRST_STEP = 2.0
STEPS_UP = 5
"""Rates rise by a factor of at least two from the low end, and reach the high end in at most five steps: an overloaded
probe costs most (its queue must drain), so the bracket is approached from below."""


class RateSearch:
    """Between `low_rps` and `high_rps`, at most `probes` probes, until the bracket's ends are within `precision_frac`.

    `held_rps` is the largest rate that held (0 if none), `broken_rps` the smallest that did not (None if none). A rate
    that breaks below one that held takes the bracket down: what broke once is not trusted above.
    `most_rps` is the largest rate that any search with these settings may probe now: so far every one of it held.
    """

    def __init__(self, low_rps: float, high_rps: float, probes: int, precision_frac: float) -> None:
        self._low_rps, self._high_rps = low_rps, high_rps
        self._left = probes
        self._precision_frac = precision_frac
        self._factor: float = max(FIRST_STEP, (high_rps / low_rps) ** (1 / STEPS_UP))
        self.held_rps = 0.0
        self.broken_rps: float | None = None
        self.most_rps = low_rps

    def next_rps(self) -> float | None:
        """The rate to probe, or None: found, or no probe is left."""
        if self._left == 0 or self.held_rps >= self._high_rps:
            return None
        if self.held_rps == 0:
            return self._low_rps if self.broken_rps is None else None
        if self.broken_rps is None:
            return float(min(self._high_rps, self.held_rps * self._factor))
        if self.broken_rps <= self.held_rps * (1 + self._precision_frac):
            return None
        return math.sqrt(self.held_rps * self.broken_rps)

    def observe(self, rate_rps: float, is_held: bool) -> None:
        """The outcome of a probe."""
        self._left -= 1
        self.most_rps = float(min(self._high_rps, self.most_rps * self._factor))
        if is_held:
            self.held_rps = max(self.held_rps, rate_rps)
        else:
            self.broken_rps = rate_rps if self.broken_rps is None else min(self.broken_rps, rate_rps)


def probes_needed(low_rps: float, high_rps: float, precision_frac: float) -> int:
    """Probes that a search between these ends takes at most."""
    factor = max(FIRST_STEP, (high_rps / low_rps) ** (1 / STEPS_UP))
    up = 1 + math.ceil(round(math.log(high_rps / low_rps) / math.log(factor), 9))
    return up + max(0, math.ceil(math.log2(math.log(factor) / math.log1p(precision_frac))))
