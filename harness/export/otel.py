"""Export to OpenTelemetry: every metric of every trial as a gauge, by OTLP over HTTP."""

from __future__ import annotations

from typing import Any

from harness.errors import EnvironmentFault
from harness.export.numbers import RunNumbers, meaning

INSTALL = "pip install 'dynamometer[otel]'"
TIMEOUT_S = 10


def send(numbers: RunNumbers, uri: str | None) -> str:
    """Where the numbers are now. `uri` is the collector's address of metrics, such as
    http://127.0.0.1:4318/v1/metrics (None: as the OTEL_EXPORTER_OTLP_* variables have it).

    Raises EnvironmentFault where the SDK is not installed or no collector takes them."""
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    except ImportError as error:
        raise EnvironmentFault(f"--to otel needs OpenTelemetry's SDK and exporter: {INSTALL}") from error
    exporter = OTLPMetricExporter(endpoint=uri, timeout=TIMEOUT_S)
    data = gauges(numbers)
    try:
        is_taken = data is None or exporter.export(data).name == "SUCCESS"
    finally:
        exporter.shutdown()
    if not is_taken:
        raise EnvironmentFault(f"{uri or 'the collector'}: no collector took the metrics; check --uri and that it runs")
    return f"{sum(len(trial.metrics) for trial in numbers.trials)} metrics of {len(numbers.trials)} trials"


def gauges(numbers: RunNumbers) -> Any:
    """The numbers as the SDK's MetricsData: gauges `dyno.<metric>`, attribute `dyno.end` value, low or high."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.resources import Resource

    facts = {f"dyno.{name}": value for name, value in numbers.facts.items()}
    reader = InMemoryMetricReader()
    resource = Resource.create({"service.name": "dynamometer", "dyno.scenario": numbers.scenario, **facts})
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    meter = provider.get_meter("dynamometer")
    made: dict[str, Any] = {}
    for trial in numbers.trials:
        axes = {f"dyno.axis.{name}": value for name, value in trial.axes.items()}
        about = {"dyno.run": numbers.run, "dyno.trial": trial.trial_id, **axes}
        about |= {f"dyno.{name}": value for name, value in trial.facts.items()}
        for name, metric in trial.metrics.items():
            plain = name.replace("@", ".").replace("=", ".")
            if plain not in made:
                made[plain] = meter.create_gauge(f"dyno.{plain}", unit=metric.unit, description=meaning(name))
            for end, value in {"value": metric.value, "low": metric.low, "high": metric.high}.items():
                if value is not None:
                    made[plain].set(value, {**about, "dyno.end": end})
    data = reader.get_metrics_data()
    provider.shutdown()
    return data
