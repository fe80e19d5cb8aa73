"""Multi Model Server, the Java front end of SageMaker's older containers, launched around our handler.

The front end is theirs, whole; what runs in its workers is mms_handler.py with one of our backends. Batch size,
batch delay, workers and queue size go to the server in its own words: its batching and queueing are what is measured.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from engines import errors
from engines.api import Availability, Capabilities, Endpoint, EngineFacts, EngineSpec
from engines.environments.packages import package_availability
from engines.errors import EngineError, LaunchFailed, SpecInvalid, Unavailable
from engines.foreign_servers.java_servers.java import java
from engines.foreign_servers.starting.running import RunningForeignServer
from engines.hosted import HOST, STOP_GRACE_S, HostedEngine
from engines.processes.child_environment import child_environment
from engines.processes.no_proxy import open_here
from engines.processes.server_process import Command, ServerProcess
from engines.processes.temp_folders import fresh_path
from engines.spec_check import check_spec

MODEL = "model"
ANSWER_TIMEOUT_S = 600
"""How long the server waits for a worker's batch; dyno's own request timeout is what ends a slow one."""
BACKENDS = ("t5", "transformers", "ctranslate2", "onnxruntime", "fake")


PACKAGE = "mms"
"""The Python package that carries the jar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Loopback ports of one server."""

    inference: int
    management: int


class MultiModelServerEngine:
    """Engine `multi-model-server`: batches of up to batch_size requests, 503 when job_queue_size are waiting."""

    name = "multi-model-server"
    needs_model = True

    def probe(self) -> Availability:
        """Java and the package that carries the server; neither is started."""
        found = package_availability((PACKAGE,), self.name)
        if not found.is_available:
            return found
        found = replace(found, versions={self.name: metadata.version(self.name)})
        if java() is None:
            return replace(found, is_available=False, reason="java not found: install a Java runtime, 11 or newer")
        return found

    def capabilities(self) -> Capabilities:
        """Those of the t5 backend, without streaming and without joining a running batch."""
        return of_whole_requests({"backend": f"what its workers run: {', '.join(BACKENDS)} (default t5)"})

    @contextmanager
    def launch(self, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> Iterator[RunningForeignServer]:
        """Write its configuration and model archive to `workdir`, start it, register the model. As Engine.launch."""
        inner, workdir = self._checked(spec), workdir.absolute()  # it stands in there, and is handed paths
        workdir.mkdir(parents=True, exist_ok=True)
        store = workdir / "model-store"
        store.mkdir(exist_ok=True)
        for stale in workdir.glob("worker-*.json"):
            stale.unlink()
        _write_archive(store / f"{MODEL}.mar")
        inference, management = low_ports(2)
        ports = Ports(inference=inference, management=management)
        config = workdir / "config.properties"
        lines = {**_addresses(ports), "job_queue_size": str(spec.job_queue_size), "model_store": str(store)}
        config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()), encoding="ascii")
        load = workdir / "handler.json"
        load.write_text(json.dumps({"spec": inner.as_message()}))
        process = ServerProcess(self._command(config, load, workdir))
        try:
            yield self._ready(spec, ports, process, workdir, time.monotonic() + ready_timeout_s)
        finally:
            process.stop(STOP_GRACE_S)

    def _checked(self, spec: EngineSpec) -> EngineSpec:
        """The spec of the backend inside. Raises what launch may raise before anything is started."""
        availability = self.probe()
        if not availability.is_available:
            raise Unavailable(f"{self.name} cannot run here: {availability.reason}")
        if spec.rolling_batch != "disable":
            raise SpecInvalid(f"{self.name}: rolling_batch {spec.rolling_batch!r} refused; use 'disable'")
        backend = str(spec.options.get("backend", "t5"))
        if backend not in BACKENDS:
            raise SpecInvalid(f"{self.name}: option backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
        options = {name: value for name, value in spec.options.items() if name != "backend"}
        inner = replace(spec, engine=backend, options=options)
        engine = backend_engine(backend)
        try:
            engine.check(inner)
        except SpecInvalid as error:
            check_spec(spec, self.capabilities())  # names this engine where the refusal is its own
            raise SpecInvalid(f"{self.name}: {error}") from error
        engine.prepare(inner)
        return inner

    def _command(self, config: Path, load: Path, workdir: Path) -> Command:
        import importlib.util

        from engines.foreign_servers.java_servers.mms_handler import SPEC_VARIABLE  # and with it the whole worker

        found = importlib.util.find_spec(PACKAGE)
        assert found is not None
        assert found.origin is not None
        home = Path(found.origin).parents[1]
        temp_dir = fresh_path("server")
        argv = [str(java()), f"-Dmodel_server_home={home}", f"-Djava.io.tmpdir={temp_dir}"]
        argv += ["-cp", str(home / PACKAGE / "frontend" / "*"), "com.amazonaws.ml.mms.ModelServer"]
        argv += ["--python", sys.executable, "-f", str(config)]
        env = child_environment() | {
            SPEC_VARIABLE: str(load), "PYTHONUNBUFFERED": "1", "LOG_LOCATION": str(workdir / "logs"),
            "METRICS_LOCATION": str(workdir / "logs"),
        }  # fmt: skip
        return Command(argv=argv, log_path=workdir / "server.log", env=env, temp_dir=temp_dir, cwd=workdir)

    def _ready(
        self, spec: EngineSpec, ports: Ports, process: ServerProcess, workdir: Path, deadline: float
    ) -> RunningForeignServer:
        process.wait_for(lambda: _pings(ports.inference), deadline - time.monotonic(), "answer to /ping")
        registering = {
            "url": f"{MODEL}.mar", "model_name": MODEL, "batch_size": spec.batch_size,
            "max_batch_delay": spec.max_batch_delay_ms, "initial_workers": spec.workers, "synchronous": "false",
            "response_timeout": ANSWER_TIMEOUT_S,
        }  # fmt: skip
        _register(ports.management, registering, process)
        facts = process.wait_for(
            lambda: _loaded_facts(workdir, spec.workers, process), deadline - time.monotonic(), "loaded model"
        )
        process.wait_for(
            lambda: _ready_workers(ports.management, spec.workers), deadline - time.monotonic(), "ready workers"
        )
        versions = {**facts["versions"], **self.probe().versions}
        return RunningForeignServer(
            process,
            Endpoint(url=f"http://{HOST}:{ports.inference}/predictions/{MODEL}", protocol="djl", model_name=MODEL),
            EngineFacts(
                effective_dtype=facts["effective_dtype"],
                versions=versions,
                load_s=facts["load_s"],
                is_slow_to_warm=True,
                notes=(f"front end {self.name}, workers run {spec.options.get('backend', 't5')}", *facts["notes"]),
            ),
        )


def low_ports(count: int) -> list[int]:
    """Different loopback ports that were free a moment ago, all below 32767: MMS takes no other."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 2_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            found.append(port)
        if len(found) == count:
            return found
    raise LaunchFailed(f"expected {count} free ports between 20000 and 32000, found {len(found)}")


def of_whole_requests(options: Mapping[str, str]) -> Capabilities:
    """Those of the t5 backend behind a server that hands over whole requests; `options` are the server's own."""
    able = backend_engine("t5").capabilities()
    return replace(
        able,
        can_stream=False,
        has_rolling_batch=False,
        features={**able.features, "streaming": "no"},
        options={**options, **able.options},
    )


def backend_engine(name: str) -> HostedEngine:
    """The engine of ours that runs in the workers of somebody else's server."""
    from engines.launching import engine_here

    engine = engine_here(name)
    assert isinstance(engine, HostedEngine)
    return engine


def _addresses(ports: Ports) -> dict[str, str]:
    return {
        "inference_address": f"http://{HOST}:{ports.inference}",
        "management_address": f"http://{HOST}:{ports.management}",
        "default_response_timeout": str(ANSWER_TIMEOUT_S),
        "enable_envvars_config": "false",
    }


def _write_archive(path: Path) -> None:
    """A model archive that holds nothing but the way to our handler."""
    manifest = {
        "runtime": "python",
        "model": {"modelName": MODEL, "modelVersion": "1.0", "handler": "dyno_handler.py:handle"},
        "modelServerVersion": "1.0", "implementationVersion": "1.0", "specificationVersion": "1.0",
        "createdOn": "01/01/2026 00:00:00", "archiverVersion": "0.12.0",
    }  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr(
            "dyno_handler.py", "from engines.foreign_servers.java_servers.mms_handler import handle  # noqa: F401\n"
        )


def _pings(port: int) -> bool | None:
    try:
        with open_here(f"http://{HOST}:{port}/ping", 2.0) as answer:
            return True if answer.status == 200 else None
    except OSError:
        return None


def _register(port: int, query: Mapping[str, object], process: ServerProcess) -> None:
    url = f"http://{HOST}:{port}/models?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(url, data=b"", method="POST")
    try:
        with open_here(request, 60.0):
            pass
    except urllib.error.HTTPError as error:
        answered = error.read(2000).decode(errors="replace")
        raise LaunchFailed(
            f"the server refused the model ({error.code}): {answered}; its log ends:\n{process.log_tail()}"
        ) from error
    except OSError as error:
        raise LaunchFailed(
            f"the server did not take the model ({error}); its log ends:\n{process.log_tail()}"
        ) from error


def _loaded_facts(workdir: Path, workers: int, process: ServerProcess) -> dict[str, Any] | None:
    """The load report of the slowest worker, once all have loaded; raises the error of one that could not."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(workdir.glob("worker-*.json"))]
    for report in reports:
        if "error" in report:
            kind: type[EngineError] = getattr(errors, report["error"], LaunchFailed)
            raise kind(report["message"])
    if len(reports) < workers:
        return None
    slowest: dict[str, Any] = max((report["facts"] for report in reports), key=lambda facts: float(facts["load_s"]))
    return slowest


def _ready_workers(port: int, workers: int) -> bool | None:
    try:
        with open_here(f"http://{HOST}:{port}/models/{MODEL}", 5.0) as answer:
            answered = json.loads(answer.read())
    except (OSError, ValueError):
        return None
    model = answered[0] if isinstance(answered, list) else answered
    return True if sum(worker["status"] == "READY" for worker in model["workers"]) >= workers else None
