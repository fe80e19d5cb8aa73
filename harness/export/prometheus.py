"""Export as Prometheus' text: a file for the textfile collector of a node exporter."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest

from harness.export.numbers import RunNumbers, meaning
from harness.store.disk import write_text

_LABELS = ("scenario", "run", "trial", "engine", "end")


def write_text_file(numbers: RunNumbers, path: Path) -> None:
    """Write every metric as a gauge `dyno_<metric>`; `end` is value, low or high. Raises EnvironmentFault."""
    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    for trial in numbers.trials:
        for name, metric in trial.metrics.items():
            plain = f"dyno_{re.sub('[^a-zA-Z0-9_]', '_', name)}"
            if plain not in gauges:
                gauges[plain] = Gauge(plain, f"{meaning(name)} ({metric.unit})", _LABELS, registry=registry)
            ends = {"value": metric.value, "low": metric.low, "high": metric.high}
            for end, value in ends.items():
                if value is not None:
                    labels = (numbers.scenario, numbers.run, trial.trial_id, trial.axes["engine"], end)
                    gauges[plain].labels(*labels).set(value)
    write_text(path, generate_latest(registry).decode("utf-8"))
