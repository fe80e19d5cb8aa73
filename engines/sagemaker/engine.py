"""The `sagemaker` engine: each candidate becomes a real SageMaker endpoint, which is measured and then deleted."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.api import Availability, Capabilities, Dialect, Endpoint, EngineFacts, EngineSpec
from engines.environments.packages import package_availability
from engines.errors import EngineError, LaunchFailed
from engines.processes.child_environment import child_environment
from engines.processes.no_proxy import open_here
from engines.processes.server_process import Command, ServerProcess
from engines.registry import traits
from engines.sagemaker.aws import Aws
from engines.sagemaker.catalogue import instances
from engines.sagemaker.cloudwatch import Reading, summary, wait_for_metrics
from engines.sagemaker.container_log import save_log, with_log
from engines.sagemaker.converted import SUMS, converted_weights, sums, wants_converted
from engines.sagemaker.endpoint import LiveEndpoint, deployed, expires_s
from engines.sagemaker.memory import check_fit
from engines.sagemaker.plan import OPTIONS, EndpointPlan, hosted, plan_endpoint
from engines.sagemaker.route import route_to
from engines.sagemaker.serving import code_files, names_its_model, with_weights
from engines.sagemaker.weights import check_bucket, keep_weights, shared_weights, size_bytes
from engines.setting import DTYPES
from engines.spec_check import check_spec

logger = logging.getLogger("dyno.sagemaker")

PROXY_READY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything known before the first request to AWS. `uploads` states whether the weights must be put into S3,
    `converts` for which engine they are converted first ('': they go as they are)."""

    plan: EndpointPlan
    files: dict[str, bytes]
    uploads: bool
    converts: str
    fit: str


def prepare(spec: EngineSpec) -> Prepared:
    """Plan, files and memory arithmetic of `spec`; nothing is contacted. Raises SpecInvalid, ModelInvalid."""
    weights_bytes = size_bytes(spec.model_dir) if spec.model_dir.is_dir() else 0
    plan = plan_endpoint(spec, weights_bytes)
    is_lmi = "/djl-inference:" in plan.image
    files = code_files(spec, is_lmi, plan.image.rpartition(":")[2])
    fit = check_fit(spec, plan.instance)
    uploads = not plan.weights_uri and not names_its_model(files)
    converts = hosted(spec.options)[0] if uploads and is_lmi and wants_converted(files) else ""
    return Prepared(plan=plan, files=files, uploads=uploads, converts=converts, fit=fit)


def check_access(plan: EndpointPlan) -> None:
    """Nothing, if the credentials, the way to AWS and the bucket are there; nothing is created.

    Raises Unavailable, SpecInvalid.
    """
    aws = Aws(plan.region)
    route_to(aws.runtime_url)
    check_bucket(aws, plan.bucket)


class RunningEndpoint:
    """A RunningEngine whose processes are elsewhere."""

    def __init__(
        self, live: LiveEndpoint, proxy: ServerProcess, port: int, facts: EngineFacts, *, is_ours: bool = True
    ) -> None:
        address, dialect = f"http://127.0.0.1:{port}", Dialect(knows_details=is_ours)
        self.endpoint = Endpoint(url=address, protocol="djl", model_name=live.name, dialect=dialect)
        self.facts = facts
        self.pids: tuple[int, ...] = ()
        self.live = live
        self._proxy = proxy

    def failure(self) -> EngineError | None:
        """None while the endpoint should answer; else why not."""
        if (why := self.live.ended()) is not None:
            return LaunchFailed(why)
        return None if self._proxy.exit_code() is None else self._proxy.ended_error()

    def learn(self, *notes: str) -> None:
        """Add what is known only at the end."""
        self.facts = replace(self.facts, notes=(*self.facts.notes, *notes))


class SageMakerEngine:
    """Engine for SageMaker real-time endpoints."""

    name = "sagemaker"

    def probe(self) -> Availability:
        """Available where boto3 is installed; credentials are looked for at launch."""
        return package_availability(("boto3",), "sagemaker")

    def capabilities(self) -> Capabilities:
        """What some instance can do; what the chosen one cannot is refused before anything is created."""
        most = max(instance.accelerators for instance in instances().values())
        return Capabilities(
            effective_dtypes={dtype: dtype for dtype in (*DTYPES, "w8a8")},
            max_tensor_parallel_degree=most,
            has_rolling_batch=True,
            devices=("cpu", "cuda"),
            options=OPTIONS,
            model_kinds=(),  # the image decides
            changes_answers={"batch_size": (*DTYPES, "w8a8")},  # it may, under some image
            features={
                "model_parallel": "as the image's engine",
                "loads_hugging_face": "yes",
                "runtime_partition": "as the image's engine",
                "ahead_of_time_partition": "as the image's engine",
                "partition_on_cpu_memory": "as the image's engine",
                "streaming": "yes",
                "fast_loading": "weights uncompressed in S3",
                "hardware": "every SageMaker instance",
            },
        )

    @contextmanager
    def launch(self, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> Iterator[RunningEndpoint]:
        """Create, wait, serve through the proxy, delete. The plan, CloudWatch's metrics and the container's log go to
        workdir.

        The endpoint's own option ready_timeout_s bounds the waiting; `ready_timeout_s` is for engines on this machine.
        """
        check_spec(spec, self.capabilities())
        prepared = prepare(spec)
        plan, files = prepared.plan, prepared.files
        aws = Aws(plan.region)
        route = route_to(aws.runtime_url)  # now: a proxy that cannot be used is to be known before anything is paid for
        check_bucket(aws, plan.bucket)
        if prepared.uploads:
            made = converted_weights(spec, prepared.converts) if prepared.converts else None
            files = {**files, SUMS: sums(made.files)} if made else files
            uri = shared_weights(aws, spec.model_dir, plan.bucket, plan.prefix, made)
            plan = replace(plan, weights_uri=uri)
        if plan.weights_uri:
            files = with_weights(files, plan.weights_uri)
        workdir.mkdir(parents=True, exist_ok=True)
        _store(workdir / "endpoint.json", plan.requests(expires_s(plan)))
        log = workdir / "server.log"
        window_begin = time.time()
        try:
            with deployed(aws, plan, files) as live, _proxy(aws, plan, workdir) as (process, port):
                is_lmi = "/djl-inference:" in plan.image
                is_ours = not (is_lmi and traits(hosted(spec.options)[0]).container_entry_point)
                running = RunningEndpoint(live, process, port, _facts(spec, prepared, live), is_ours=is_ours)
                if route.proxy:
                    running.learn(f"requests went through the proxy {route.proxy}: its time is in every latency")
                try:
                    yield running
                finally:
                    stats = _stats(port)
                    spent = live.spent_usd()
                    running.learn(*_closing(stats, spent, plan))
        except LaunchFailed as error:
            raise with_log(error, aws, plan.name, log) from None
        if plan.is_kept:
            keep_weights()
        if plan.patience.cloudwatch_s > 0:
            window = (window_begin, time.time())
            found = wait_for_metrics(aws, plan.name, window, int(stats["requests"]), plan.patience.cloudwatch_s)
            _store(workdir / "cloudwatch.json", _rows(found))
            running.learn(summary(found))
            if (why := save_log(aws, plan.name, log)) != "":
                running.learn(f"the container's log was not read: {why}")


@contextmanager
def _proxy(aws: Aws, plan: EndpointPlan, workdir: Path) -> Iterator[tuple[ServerProcess, int]]:
    state = workdir / "proxy-state.json"
    state.unlink(missing_ok=True)
    argv = [sys.executable, "-u", "-m", "engines.sagemaker.proxy", "--runtime-url", aws.runtime_url]
    argv += ["--region", plan.region, "--endpoint", plan.name, "--state", str(state)]
    command = Command(argv=argv, log_path=workdir / "proxy.log", env=child_environment())
    with ServerProcess(command) as process:
        port = process.wait_for(lambda: _port(state), PROXY_READY_S, "port")
        yield process, port


def _port(state: Path) -> int | None:
    return int(json.loads(state.read_text())["port"]) if state.exists() else None


def _facts(spec: EngineSpec, prepared: Prepared, live: LiveEndpoint) -> EngineFacts:
    plan = prepared.plan
    price = f"{plan.usd_per_hour:g} USD/h ({plan.price_origin})" if plan.usd_per_hour else "price unknown"
    return EngineFacts(
        effective_dtype=spec.dtype,
        versions={},
        load_s=live.ready_s,
        notes=(
            f"endpoint {live.name} on {plan.instance_count} x {plan.instance.name} in {plan.region}, {price}",
            f"image {plan.image}; in service after {live.ready_s:.0f} s",
            f"memory model: {prepared.fit}",
            "the dtype is the asked one: the container does not report what it computes in",
        ),
    )


def _stats(port: int) -> dict[str, Any]:
    try:
        with open_here(f"http://127.0.0.1:{port}/stats", 10.0) as answer:
            stats: dict[str, Any] = json.load(answer)
            return stats
    except (OSError, ValueError):
        return {"requests": 0}


def _closing(stats: dict[str, Any], spent_usd: float | None, plan: EndpointPlan) -> tuple[str, ...]:
    notes = []
    if stats["requests"]:
        notes.append(
            f"the signing proxy itself took p50 {stats['added_p50_us'] / 1000:.2f} ms, p99 "
            f"{stats['added_p99_us'] / 1000:.2f} ms of each latency (n={stats['requests']})"
        )
    if spent_usd is not None:
        notes.append(f"the endpoint cost about {spent_usd:.4f} USD from its creation to the end of the load")
    return tuple(notes)


def _rows(found: tuple[Reading, ...] | str) -> Any:
    if isinstance(found, str):
        return {"error": found}
    return [
        {"name": r.name, "statistic": r.statistic, "unit": r.unit, "values": list(r.values), "total": r.total}
        for r in found
    ]


def _store(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
