"""What leaves a run: its numbers with their intervals, in each project's own form, and no text of a request."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engines.hosted import HOST
from engines.processes.http_look import http_status
from engines.processes.server_process import Command, ServerProcess, free_port
from engines.processes.temp_folders import fresh_path
from harness.cli.main import run
from harness.export.numbers import RunNumbers, numbers_of
from harness.export.prometheus import write_text_file
from harness.records import Doubt, Trial
from harness.store.reader import Run
from tests.harness.gate.runs import a_run

SECRET = "the prompt that nobody may see"


def _with_secrets(trial: Trial) -> Trial:
    assert trial.summary is not None
    doubt = Doubt(kind="failed_requests", sentence=f"4 of 200 requests failed, for instance: {SECRET}")
    summary = replace(trial.summary.doubted([doubt]), unavailable={"itl": SECRET})
    assert trial.quality is not None
    quality = replace(trial.quality, reason=SECRET)
    return replace(trial, summary=summary, quality=quality, notes=(SECRET,), reason=SECRET, violations=(SECRET,))


@pytest.fixture
def stored(tmp_path: Path) -> Run:
    """A run whose every sentence and answer holds a secret."""
    made = a_run(tmp_path, [20.0, 21.0], scenario={"description": SECRET})
    for trial in made.trials:
        made.layout.outputs(trial.trial_id).write_text(json.dumps({"id": "1", "text": SECRET}) + "\n")
    return replace(made, trials=tuple(_with_secrets(trial) for trial in made.trials))


@pytest.fixture
def numbers(stored: Run) -> RunNumbers:
    return numbers_of(stored)


def test_prometheus_reads_every_metric_with_both_ends_of_its_interval(numbers: RunNumbers, tmp_path: Path) -> None:
    write_text_file(numbers, tmp_path / "run.prom")
    text = (tmp_path / "run.prom").read_text()
    found = {
        (sample.name, sample.labels["trial"], sample.labels["end"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    for trial in numbers.trials:
        for name, metric in trial.metrics.items():
            ends = {"value": metric.value, "low": metric.low, "high": metric.high}
            for end, value in ends.items():
                assert found.get((f"dyno_{name.replace('.', '_')}", trial.trial_id, end)) == value
    assert SECRET not in text


def test_no_sentence_of_a_run_is_among_what_leaves(numbers: RunNumbers) -> None:
    assert SECRET not in repr(numbers)
    assert numbers.trials[0].facts["doubts"] == "few_samples, failed_requests"
    assert numbers.trials[0].facts["constraints"] == "broken"


@pytest.mark.parametrize(
    ("target", "package", "extra"),
    [("mlflow", "mlflow", "mlflow"), ("otel", "opentelemetry.exporter.otlp.proto.http.metric_exporter", "otel"),
     ("wandb-offline", "wandb", "wandb")],
)  # fmt: skip
def test_a_missing_package_is_named_with_its_install_line(
    target: str, package: str, extra: str, stored: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert run(["export", str(stored.root), "--to", target]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"pip install 'dynamometer[{extra}]'" in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--to", "prometheus", "--uri", "http://127.0.0.1:1"], "--uri: expected --to mlflow or otel"),
        (["--to", "otel", "--out", "x"], "--out: expected --to prometheus"),
        (["--to", "prometheus", "--with-texts"], "--with-texts: expected --to mlflow"),
    ],
)
def test_options_that_do_not_fit_the_target_are_refused(
    words: list[str], expected: str, stored: Run, capsys: Any
) -> None:
    assert run(["export", str(stored.root), *words]) == 2
    assert expected in capsys.readouterr().err


def test_a_run_without_numbers_is_refused(tmp_path: Path, capsys: Any) -> None:
    failed = a_run(tmp_path, [20.0], outcome="crashed")
    assert run(["export", str(failed.root), "--to", "prometheus"]) == 2
    assert "expected a trial with numbers" in capsys.readouterr().err


@contextmanager
def _mlflow_server(folder: Path) -> Iterator[str]:
    """The address of a tracking server of MLflow's own, which keeps everything below `folder`."""
    port = free_port()
    argv = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    argv += ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", str(folder / "store")]
    process = ServerProcess(
        Command(argv=argv, log_path=folder / "server.log", cwd=folder, env={}, temp_dir=fresh_path("mlflow"))
    )
    try:
        url = f"http://{HOST}:{port}"
        process.wait_for(lambda: http_status(f"{url}/health", 5.0) == 200 or None, 120.0, "answer to /health")
        yield url
    finally:
        process.stop(5.0)


@contextmanager
def _mlflow_folder(folder: Path) -> Iterator[str]:
    yield (folder / "store").as_uri()


@pytest.mark.heavy
@pytest.mark.parametrize("store", [_mlflow_folder, _mlflow_server])
@pytest.mark.parametrize("with_texts", [False, True])
def test_mlflow_keeps_the_metrics_and_answers_only_where_asked(
    numbers: RunNumbers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: Callable[[Path], AbstractContextManager[str]],
    with_texts: bool,
) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    from harness.export.mlflow import send

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "mlflow").mkdir()
    with store(tmp_path / "mlflow") as uri:
        send(numbers, uri, with_texts=with_texts)
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(numbers.scenario)
        kept = {each.data.tags["dyno.trial"]: each for each in client.search_runs([experiment.experiment_id])}
    assert set(kept) == {trial.trial_id for trial in numbers.trials}
    for trial in numbers.trials:
        assert kept[trial.trial_id].data.metrics["latency_p50_ms"] == trial.metrics["latency_p50_ms"].value
        assert kept[trial.trial_id].data.metrics["latency_p50_ms.low"] == trial.metrics["latency_p50_ms"].low
        assert kept[trial.trial_id].data.params["engine"] == trial.axes["engine"]
    assert (SECRET in _everything_below(tmp_path / "mlflow")) is with_texts


def _everything_below(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


class _Collector(BaseHTTPRequestHandler):
    """Keeps the body of each POST."""

    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing."""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    bodies: list[bytes] = []
    handler = type("Kept", (_Collector,), {"bodies": bodies})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/metrics", bodies
        server.shutdown()
        thread.join()


@pytest.mark.heavy
def test_opentelemetry_sends_gauges_by_otlp(numbers: RunNumbers, collector: tuple[str, list[bytes]]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    from harness.export.otel import send

    url, bodies = collector
    send(numbers, url)
    (body,) = bodies
    sent = ExportMetricsServiceRequest.FromString(_unzipped(body))
    assert SECRET not in str(sent)
    (scope,) = sent.resource_metrics[0].scope_metrics
    points = {
        (metric.name, point_of["dyno.trial"], point_of["dyno.end"]): point.as_double
        for metric in scope.metrics
        for point in metric.gauge.data_points
        for point_of in [{each.key: each.value.string_value for each in point.attributes}]
    }
    for trial in numbers.trials:
        metric = trial.metrics["latency_p90_ms"]
        assert points["dyno.latency_p90_ms", trial.trial_id, "value"] == metric.value
        assert points.get(("dyno.latency_p90_ms", trial.trial_id, "low")) == metric.low


def _unzipped(body: bytes) -> bytes:
    import gzip

    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


@pytest.mark.heavy
def test_a_collector_that_is_not_there_is_named(stored: Run, capsys: Any) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    assert run(["export", str(stored.root), "--to", "otel", "--uri", "http://127.0.0.1:9/v1/metrics"]) == 3
    assert "no collector took the metrics" in capsys.readouterr().err


@pytest.mark.heavy
@pytest.mark.parametrize("with_texts", [False, True])
def test_wandb_writes_an_offline_run_for_each_trial(numbers: RunNumbers, tmp_path: Path, with_texts: bool) -> None:
    pytest.importorskip("wandb")
    from harness.export.wandb import write_offline

    write_offline(numbers, tmp_path / "out", with_texts=with_texts)
    runs = list((tmp_path / "out").glob("wandb/offline-run-*"))
    assert len(runs) == len(numbers.trials)
    everything = _everything_below(tmp_path / "out")
    assert "latency_p50_ms" in everything
    assert (SECRET in everything) is with_texts
