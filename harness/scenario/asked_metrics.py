"""Refusing goals that a scenario's workload cannot measure, before anything is launched."""

from __future__ import annotations

from collections.abc import Sequence

from harness.measure.geometric_mean import NAME
from harness.measure.levels import level_in, without_level
from harness.scenario.fields import expected
from harness.scenario.geometric_mean import AnyObjective, GeometricMean
from harness.scenario.goals import levels_text
from harness.scenario.load_kinds import ClosedLoad, MaxRateLoad, Slo
from harness.scenario.load_list import OF_ONE_LOAD, OPEN_LOOP, AnyLoad, LoadList, is_of_a_window, load_at, loads_of

PER_REQUEST = ("latency_", "ttft_", "ttfo_", "itl_", "tpot_")
"""How metrics begin that grow with the load: without its level, the number of a sweep could be anyone's."""


def check_levels(load: AnyLoad, names: Sequence[str], objectives: Sequence[AnyObjective]) -> None:
    """Refuses a goal at a level that the load or the metric has not, and objectives whose number could be any
    level's."""
    levels = load.levels
    for name in names:
        _check_level(load, name)
    first, every = objectives[0], [name for one in objectives for name in one.judged]
    of_mean = [name for one in objectives if isinstance(one, GeometricMean) for name in one.judged]
    nowhere = [name for name in every if level_in(name) is None]
    if isinstance(load, LoadList):
        if anywhere := [name for name in nowhere if is_of_a_window(name)]:
            hint = f"write at: {{load: {levels[0].name}}}, or a geometric_mean over the loads"
            what = f"at: a load beside the objective {anywhere[0]}, because workload.load is a list"
            raise expected(what, "none", hint)
        return
    hint = f"write at: {{{levels[-1].axis}: {levels[-1].value:.10g}}}" if levels else ""
    if levels and (anywhere := [name for name in nowhere if name in of_mean]):
        what = f"at: a level beside {anywhere[0]} in geometric_mean, because workload.load is a sweep"
        raise expected(what, "none", hint)
    if levels and level_in(first.name) is None and first.name.startswith(PER_REQUEST):
        raise expected(
            f"at: a level beside the first objective {first.name}, because workload.load is a sweep",
            "none",
            f"{hint}, or maximize throughput_rps",
        )


def _check_level(load: AnyLoad, name: str) -> None:
    metric = without_level(name)
    if isinstance(load, LoadList) and name.startswith(OF_ONE_LOAD):
        hint = "it would be that of one load alone: give that load a scenario without the others"
        raise expected("metrics that every load of a list has", metric, hint)
    if metric == name:
        return
    if not is_of_a_window(name):
        raise expected("a metric that every level or load has, beside at", metric, "remove at: a launch has it once")
    if level_in(name) not in load.levels:
        have = ", ".join(levels_text(load.levels)) or "none: write load.users or load.rate_rps as a list"
        raise expected(f"a level of workload.load (it has {have})", name)


def check_measured(
    load: AnyLoad, names: Sequence[str], objectives: Sequence[AnyObjective], *, is_streamed: bool, slo: Slo | None
) -> None:
    """Refuses a metric that this workload cannot have; `names` are the goals' and those of the load's own SLO."""
    has_mean = any(isinstance(one, GeometricMean) for one in objectives)
    is_sweep = bool(load.levels) and not isinstance(load, LoadList)
    for name in names:
        alone = load_at(load, name)
        kind = "a list" if isinstance(alone, LoadList) else alone.kind
        is_open = any(not isinstance(one, ClosedLoad) for one in loads_of(alone))
        has = (
            (("ttft_", "ttfo_", "itl_", "tpot_"), is_streamed, "workload.stream: true", is_streamed),
            (("goodput_",), slo is not None, "workload.slo", None),
            (("max_rate_",), isinstance(alone, MaxRateLoad), "workload.load.kind: max_rate", kind),
            (
                ("load_level",),
                is_sweep,
                "several levels in workload.load.users or rate_rps",
                "a list" if load.levels else "one",
            ),
            (("slip_",), kind == "trace", "workload.load.kind: trace", kind),
            (OPEN_LOOP, is_open, "an open loop such as poisson", kind),
            ((NAME,), has_mean and level_in(name) is None, f"an objective {NAME}, whose metrics have levels", None),
        )
        for prefixes, is_there, what, got in has:
            if name.startswith(prefixes) and not is_there:
                raise expected(f"{what}, because {name} is asked for", got)
