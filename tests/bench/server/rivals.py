"""Other model servers around the same handler, the fake engine that takes no time: launched, or why they are absent.

Multi Model Server and DJL Serving are launched by their adapters. LitServe gets an environment of its own in the
bench's cache, made once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from engines.api import Endpoint, EngineFacts, EngineSpec, RunningEngine
from engines.errors import Unavailable
from engines.foreign_servers.starting.running import RunningForeignServer
from engines.hosted import HOST
from engines.launching import load_engine
from engines.processes.http_look import http_status
from engines.processes.server_process import Command, ServerProcess, free_port
from engines.processes.temp_folders import fresh_path
from tests.bench.server.loads import ROOT

NAMES = ("ours", "ours, rolling", "litserve", "multi-model-server", "djl")
CACHE = ROOT / "build" / "bench-server"
LITSERVE = "litserve==0.2.19"
READY_S = 180.0
STOP_S = 10.0


@contextmanager
def launched(name: str, batch: int, workdir: Path) -> Iterator[RunningEngine]:
    """The server, ready, with one worker. Raises EngineError where it is absent."""
    workdir.mkdir(parents=True, exist_ok=True)
    spec = EngineSpec(
        engine="fake", model_dir=workdir, batch_size=batch, workers=1, options={"service_ms": 0, "law": "constant"}
    )
    if name == "litserve":
        with _litserve(spec, workdir) as running:
            yield running
        return
    if name == "ours, rolling":
        spec = replace(spec, batch_size=1, rolling_batch="auto", options={"service_ms": 0, "token_ms": 0, "slots": 32})
    elif name != "ours":
        spec = replace(spec, engine=name, options={**spec.options, "backend": "fake"})
    with load_engine(spec.engine).launch(spec, workdir, READY_S) as running:
        yield running


@contextmanager
def _litserve(spec: EngineSpec, workdir: Path) -> Iterator[RunningForeignServer]:
    python, port = _litserve_python(), free_port()
    argv = [str(python), "-m", "tests.bench.server.litserve_app"]
    argv += [json.dumps(spec.as_message()), str(port), str(spec.batch_size)]
    command = Command(
        argv=argv, log_path=workdir / "server.log", cwd=ROOT, env={"PYTHONPATH": str(ROOT)},
        temp_dir=fresh_path("server"),
    )  # fmt: skip
    process = ServerProcess(command)
    try:
        url = f"http://{HOST}:{port}"
        process.wait_for(lambda: http_status(f"{url}/health", 2.0) == 200 or None, READY_S, "answer to /health")
        facts = EngineFacts(effective_dtype="fp32", versions={"litserve": LITSERVE}, load_s=0.0)
        yield RunningForeignServer(process, Endpoint(url=url), facts)
    finally:
        process.stop(STOP_S)


def _litserve_python() -> Path:
    folder = CACHE / "litserve-env"
    python = folder / "bin" / "python"
    if not (folder / "made").is_file():
        print(f"making {folder} with {LITSERVE}", file=sys.stderr)
        pip = [
            str(python),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
            LITSERVE,
            "psutil",
            "numpy",
        ]
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            subprocess.run(pip, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(f"LitServe could not be installed: {error}") from error
        (folder / "made").touch()
    return python
