"""The windows of a launch as they are planned; nothing is started and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from engines.api import Endpoint, RunningEngine
from harness.load.driver import LoadResult
from harness.load.plan import LoadPlan
from harness.load.served_model import UNKNOWN
from harness.measure.engine_metrics.scrapes import EngineMetrics
from harness.records import Metric, TrialSummary
from harness.trial import load_window
from harness.trial.inputs import TrialInputs
from harness.trial.load_window import Loads
from harness.trial.progress import Lines
from harness.trial.window import Window
from harness.units import NS_PER_S
from tests.harness.measure.records import use


def planned(
    inputs: TrialInputs, monkeypatch: pytest.MonkeyPatch, why_broke: Callable[[LoadPlan], str] = lambda plan: ""
) -> list[LoadPlan]:
    """The plan of every window of a launch; a probe of a maximum-rate search breaks as `why_broke` has of its plan."""
    plans: list[LoadPlan] = []

    def measured(self: Loads, plan: LoadPlan, *args: object, **more: object) -> Window:
        plans.append(plan)
        result = LoadResult(records=(), outputs={}, begin_ns=0, end_ns=NS_PER_S, client_cpu_s=0.0)
        summary = TrialSummary(metrics={"error_frac": Metric(value=0.0, unit="frac", estimator="e", n=100)})
        return Window(result=result, use=use(), telemetry={}, engine_metrics=EngineMetrics(), summary=summary)

    monkeypatch.setattr(Loads, "_window", measured)
    monkeypatch.setattr(load_window, "why_probe_broke", lambda *args, **more: why_broke(plans[-1]))
    facts = SimpleNamespace(is_slow_to_warm=False)
    engine = SimpleNamespace(endpoint=Endpoint(url="http://h"), facts=facts, failure=lambda: None)
    Loads(inputs, Lines(print)).run(cast(RunningEngine, engine), "fake", inputs.model_dir, 0.0, UNKNOWN)
    return plans
