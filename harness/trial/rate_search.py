"""The search for the largest rate within a bound: why a probe broke it, and which window the trial is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.load.schedule.max_rate import RateSearch
from harness.records import Metric, Probe, RequestRecord
from harness.scenario.load_kinds import MaxRateLoad
from harness.trial.window import Loaded, Window, why_unusable
from harness.units import NS_PER_S

DEFAULT_ERROR_FRAC = 0.01
"""Share of failed requests that breaks a probe, where the SLO does not bound error_frac itself."""


def why_probe_broke(load: MaxRateLoad, window: Window, window_s: float, *, has_slo: bool) -> str:
    """'' when the probe met everything asked of it, else the first thing that it did not."""
    if why := why_unusable(window):
        return why
    bounds = {"error_frac": DEFAULT_ERROR_FRAC, **{name: bound.max for name, bound in load.slo.items()}}
    for name, bound in bounds.items():
        metric = window.summary.metrics.get(name)
        if metric is None:
            return f"{name} was not measured"
        if metric.value > bound:
            return f"{name} {metric.value:.4g} {metric.unit} > {bound:g}"
    if has_slo:
        good = window.summary.metrics.get("goodput_frac")
        if good is None or good.value < load.good_frac:
            return f"goodput_frac {good.value if good else 0:.4g} < {load.good_frac:g}"
    delivered = _second_half_frac(window.result.records, window.result.begin_ns, window_s)
    if delivered < load.min_delivered_frac:
        return (
            f"answers came at {delivered:.0%} of the rate of the requests in the second half "
            f"(limit {load.min_delivered_frac:.0%}): the queue grew"
        )
    return ""


def _second_half_frac(records: Sequence[RequestRecord], begin_ns: int, window_s: float) -> float:
    """Good answers over intended sends, both in the second half of the window; below 1 while a queue grows."""
    half_ns, end_ns = begin_ns + int(window_s / 2 * NS_PER_S), begin_ns + int(window_s * NS_PER_S)
    chosen = [record for record in records if not record.is_warmup]
    asked = sum(half_ns <= record.intended_ns < end_ns for record in chosen)
    answered = sum(half_ns <= record.done_ns < end_ns and record.outcome == "ok" for record in chosen)
    return answered / asked if asked else 1.0


def largest_held(
    search: RateSearch, load: MaxRateLoad, probes: tuple[Probe, ...], windows: Mapping[int, Window]
) -> Loaded:
    """The trial's own window is that of the largest rate that held, of the lowest probe if none did."""
    held = [probe for probe in probes if probe.is_held]
    chosen = max(held, key=lambda probe: probe.level.value) if held else probes[0]
    window = windows[chosen.number]
    breaking = min((probe for probe in probes if not probe.is_held), key=lambda probe: probe.level.value, default=None)
    limited = windows[breaking.number].limited if breaking is not None else ""
    note = f"broken at {breaking.level.value:.4g}: {breaking.reason}" if breaking else "the search's own bound held"
    if not held:
        note = f"even {load.low_rps:g} requests/s broke the SLO: {probes[0].reason}"
    metric = Metric(
        value=search.held_rps,
        unit="requests/s",
        estimator="largest probed rate that met the SLO; the interval is the final bracket",
        method="bracket",
        n=len(probes),
        low=search.held_rps,
        high=search.broken_rps,
        note=note,
    )
    summary = replace(window.summary, metrics={**window.summary.metrics, "max_rate_rps": metric})
    own = replace(window, summary=summary, limited=limited)
    probes = tuple(replace(probe, is_own=probe is chosen) for probe in probes)
    return Loaded(window=own, probes=probes, others={n: w for n, w in windows.items() if n != chosen.number})
