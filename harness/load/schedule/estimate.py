"""A scenario's load in one sentence, and how long it takes: what --dry-run prints."""

from __future__ import annotations

from harness.load.schedule.max_rate import probes_needed
from harness.scenario.load_kinds import (
    ClosedLoad,
    ConstantLoad,
    GammaLoad,
    MaxRateLoad,
    OpenLoad,
    PoissonLoad,
    RampLoad,
    StagesLoad,
    TraceLoad,
)
from harness.scenario.schema import Workload


def load_text(workload: Workload) -> str:
    """'poisson, 40 requests/s for 3 s: about 120 requests, at most 200 in flight'."""
    load = workload.load
    if isinstance(load, ClosedLoad):
        think = f", {load.think_time_s:g} s of thought" if load.think_time_s else ""
        if workload.locustfile is not None:
            pace = f", {workload.spawn_per_s:g} begun per second" if workload.spawn_per_s else ""
            return (
                f"{load.users} users of {workload.locustfile}{pace}: {workload.requests} requests or "
                f"{workload.max_duration_s:g} s"
            )
        return f"closed loop, {load.users} users{think}: {workload.requests} requests or {workload.max_duration_s:g} s"
    return f"{_law(load, workload)}, at most {load.max_in_flight} in flight"


def load_s(workload: Workload) -> float:
    """Seconds of load in one trial, at most."""
    load = workload.load
    if isinstance(load, MaxRateLoad):
        return _probes(load) * workload.max_duration_s
    if isinstance(load, StagesLoad):
        return load.total_s
    if isinstance(load, ConstantLoad | PoissonLoad | GammaLoad):
        return min(workload.max_duration_s, workload.requests / load.rate_rps)
    return workload.max_duration_s


def load_requests(workload: Workload) -> int:
    """Requests of one trial, about; of a trace not known before it is read: those of workload.requests."""
    load = workload.load
    if isinstance(load, MaxRateLoad):
        return round(_probes(load) * load.low_rps * workload.max_duration_s)
    if isinstance(load, StagesLoad):
        return round(sum(stage.rate_rps * stage.duration_s for stage in load.stages))
    if isinstance(load, RampLoad):
        return round((load.from_rps + load.to_rps) / 2 * workload.max_duration_s)
    if isinstance(load, ConstantLoad | PoissonLoad | GammaLoad):
        return round(load_s(workload) * load.rate_rps)
    return workload.requests


def _law(load: OpenLoad, workload: Workload) -> str:
    count = f"about {load_requests(workload)} requests"
    if isinstance(load, MaxRateLoad):
        bounds = [f"{name} <= {bound.max:g}" for name, bound in load.slo.items()]
        if workload.slo is not None:
            limits = ", ".join(f"{name} {value:g}" for name, value in workload.slo.thresholds().items())
            bounds.append(f"{load.good_frac:.0%} of requests within {limits}")
        return (
            f"largest rate from {load.low_rps:g} to {load.high_rps:g} requests/s ({load.arrivals}) with "
            f"{' and '.join(bounds)}: at most {_probes(load)} probes of {workload.max_duration_s:g} s"
        )
    if isinstance(load, RampLoad):
        course = f"{load.from_rps:g} to {load.to_rps:g} requests/s over {workload.max_duration_s:g} s"
        return f"ramp ({load.arrivals}), {course}: {count}"
    if isinstance(load, StagesLoad):
        rates = ", ".join(f"{stage.rate_rps:g}/s for {stage.duration_s:g} s" for stage in load.stages)
        return f"stages ({load.arrivals}), {rates}: {count}"
    if isinstance(load, TraceLoad):
        return f"trace {load.path} at {load.speed:g} times its speed, {workload.max_duration_s:g} s of it"
    burst = f", gaps with a coefficient of variation of {load.cv:g}" if isinstance(load, GammaLoad) else ""
    return f"{load.kind}, {load.rate_rps:g} requests/s for {load_s(workload):.3g} s{burst}: {count}"


def _probes(load: MaxRateLoad) -> int:
    return min(load.probes, probes_needed(load.low_rps, load.high_rps, load.precision_frac))
