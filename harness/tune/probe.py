"""Probes: when the first requests of a load may end a trial, by what trials cost.

A race needs blocks longer than the dependence between requests and an error level for the whole search; so it is
mostly silent before half of the load. A probe is the first check that holds PROBE_ROUNDS rounds of all users. There a
trial also ends when it is worse by more than the margin with an error of PROBE_ERROR for itself alone. What is as good
runs to its end in the same launch, so a probe costs nothing; what it saves is load,
little where launches take the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from harness.records import Trial
from harness.tune.finalists import first_measurements

PROBE_ERROR = 0.025
"""Probability that a probe ends a trial by chance of its requests that is no more than the margin worse."""
PROBE_ROUNDS = 6
"""Rounds of all users in a probe at least; fewer hardly show how much rounds differ."""
LEAST_LOAD_FRAC = 0.4
"""Of a trial's time; with less of it under load probes would save 4 % of a search or less (DECISIONS, entry 88)."""


def probe_of(
    engine: str, trials: Sequence[Trial], checks: Sequence[int], round_requests: int
) -> tuple[int | None, str]:
    """Which check, from 0, is the probe of the next trial of `engine`, and why: the first that holds enough rounds,
    where load takes enough of a whole trial of that engine (else of any); None where there is no probe."""
    whole = [trial for trial in first_measurements(trials) if trial.outcome == "ok" and trial.phase_s]
    asked = [trial for trial in whole if trial.candidate.engine == engine] or whole
    if not asked:
        return None, "not probed: no trial that was measured whole states its costs"
    cost_s = _costs_s(asked)
    whole_s = max(sum(cost_s.values()), 1e-9)
    costs = f"a whole trial takes {whole_s:.3g} s ({', '.join(f'{k} {v / whole_s:.0%}' for k, v in cost_s.items())})"
    if cost_s.get("load", 0.0) < LEAST_LOAD_FRAC * whole_s:
        return None, f"not probed, since load takes less than {LEAST_LOAD_FRAC:.0%}: {costs}"
    probe = next((place for place, count in enumerate(checks) if count // round_requests >= PROBE_ROUNDS), None)
    if probe is None:
        return None, f"not probed: no check holds {PROBE_ROUNDS} rounds of {round_requests} users"
    return probe, f"probed by the first {checks[probe]} requests: {costs}"


def _costs_s(trials: Sequence[Trial]) -> dict[str, float]:
    """The median seconds of each phase: the first trial of an engine may hold a conversion."""
    phases = dict.fromkeys(name for trial in trials for name in trial.phase_s)
    return {name: median(trial.phase_s.get(name, 0.0) for trial in trials) for name in phases}
