"""The model server's own metrics in Prometheus text, at /metrics: requests, queue time, batch size, tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS_S = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics:
    """One server's counters, in their own registry; used by one event loop."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "dyno_requests",
            "Requests answered, by HTTP status (499: the client left)",
            ["code"],
            registry=self.registry,
        )
        self.latency_s = Histogram(
            "dyno_request_latency_seconds",
            "Body read to answer sent, requests answered 200",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.queue_s = Histogram(
            "dyno_queue_seconds",
            "Queued to taken by a worker, per job",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "dyno_batch_size", "Jobs per batch sent to a worker", buckets=BATCH_BUCKETS, registry=self.registry
        )
        self.tokens = Counter("dyno_generated_tokens", "Tokens generated, eos included", registry=self.registry)
        self.restarts = Counter("dyno_worker_restarts", "Workers started again after a crash", registry=self.registry)
        self.queue_length = Gauge("dyno_queue_length", "Jobs waiting now", registry=self.registry)
        self.running = Gauge("dyno_running", "Jobs that workers have now", registry=self.registry)
        self.workers = Gauge("dyno_workers", "Workers by state", ["state"], registry=self.registry)

    def watch(
        self, waiting: Callable[[], int], running: Callable[[], int], workers: Mapping[str, Callable[[], int]]
    ) -> None:
        """Count the jobs that wait, those that workers have, and the workers of each state, when asked for the text."""
        self.queue_length.set_function(lambda: float(waiting()))
        self.running.set_function(lambda: float(running()))
        for state, count in workers.items():
            self.workers.labels(state).set_function(count)

    def text(self) -> bytes:
        """Everything, in Prometheus text format."""
        return generate_latest(self.registry)
