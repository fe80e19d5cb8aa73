"""DJL Serving, launched by its installed command or its docker image on a model folder that holds our backend.

Proven against a recorded conversation only: DJL Serving is in no package index, no test has started the real one.
"""

from __future__ import annotations

import json
import shutil
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from engines.api import Availability, Capabilities, Endpoint, EngineFacts, EngineSpec
from engines.errors import LaunchFailed, SpecInvalid, Unavailable
from engines.foreign_servers.djl_folder import PACKAGES, backend_spec, write_djl_folder
from engines.foreign_servers.multi_model_server import RunningJavaServer, backend_engine
from engines.hosted import HOST, STOP_GRACE_S
from engines.processes.no_proxy import open_here
from engines.processes.server_process import Command, ServerProcess, free_port
from engines.processes.temp_folders import fresh_path
from engines.spec_check import check_spec

COMMAND = "djl-serving"
MODEL = "model"
CONTAINER_PORT = 8080
_OPTIONS = {
    "backend": f"what model.py hosts: {', '.join(PACKAGES)} (default t5)",
    "image": "docker image to run instead of the installed djl-serving command",
    "command": "path of the djl-serving command (default: the one on the path)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The result of one look at the server: ready, still loading, or failed for good (with why)."""

    is_ready: bool
    failure: str = ""


class DjlEngine:
    """Engine `djl`. The front end, its queue and its batches are DJL Serving's; the answers are our backend's."""

    name = "djl"
    needs_model = True

    def probe(self) -> Availability:
        """Whether the command or docker is there; an image is looked for when it is started."""
        if shutil.which(COMMAND) or shutil.which("docker"):
            return Availability(is_available=True)
        return Availability(
            is_available=False,
            reason=f"neither {COMMAND} nor docker found: install DJL Serving, or docker and name options.image",
        )

    def capabilities(self) -> Capabilities:
        """Those of the t5 backend, whole requests only."""
        from engines.launching import engine_here

        able = engine_here("t5").capabilities()
        return replace(
            able,
            can_stream=False,
            has_rolling_batch=False,
            features={**able.features, "streaming": "no"},
            options={**_OPTIONS, **able.options},
        )

    @contextmanager
    def launch(self, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> Iterator[RunningJavaServer]:
        """Write the model folder to `workdir`/model, start DJL Serving on it, wait until its workers are ready."""
        inner = self._checked(spec)
        image = str(spec.options.get("image", ""))
        folder = write_djl_folder(inner, workdir / MODEL, links_weights=not image)
        port = free_port()
        argv = docker_argv(image, folder, port) if image else self._argv(spec, folder, workdir, port)
        temp_dir = fresh_path("server")
        process = ServerProcess(Command(argv=argv, log_path=workdir / "server.log", temp_dir=temp_dir, cwd=workdir))
        try:
            process.wait_for(lambda: _ready(process, port, spec.workers), ready_timeout_s, "ready workers")
            yield RunningJavaServer(
                process,
                Endpoint(url=f"http://{HOST}:{port}/predictions/{MODEL}", protocol="djl", model_name=MODEL),
                EngineFacts(
                    effective_dtype=self.capabilities().effective_dtypes[spec.dtype],
                    versions={"djl-serving": image or COMMAND},
                    load_s=0.0,
                    notes=(f"front end DJL Serving, workers run {inner.engine}", "load time is part of the launch"),
                ),
            )
        finally:
            process.stop(STOP_GRACE_S)

    def _checked(self, spec: EngineSpec) -> EngineSpec:
        """The spec of the backend inside. Raises what launch may raise before anything is started."""
        inner = backend_spec(spec)
        try:
            backend_engine(inner.engine).check(inner)
        except SpecInvalid as error:
            check_spec(spec, self.capabilities())  # names this engine where the refusal is its own
            raise SpecInvalid(f"{self.name}: {error}") from error
        return inner

    def _argv(self, spec: EngineSpec, folder: Path, workdir: Path, port: int) -> list[str]:
        wanted = str(spec.options.get("command", COMMAND))
        command = shutil.which(wanted)
        if command is None:
            raise Unavailable(f"djl: {wanted!r} not found: install DJL Serving, or name options.image for docker")
        config = workdir / "config.properties"
        lines = {
            "inference_address": f"http://{HOST}:{port}", "management_address": f"http://{HOST}:{port}",
            "wait_model_loading": "true",
        }  # fmt: skip
        config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()), encoding="ascii")
        return [command, "-f", str(config), "-m", f"{MODEL}::Python={folder.as_uri()}"]


def docker_argv(image: str, folder: Path, port: int) -> list[str]:
    """The command line that serves `folder` as SageMaker would: `serve`, the model at /opt/ml/model, read-only.

    Raises Unavailable without docker, SpecInvalid for a name that would be read as an option.
    """
    docker = shutil.which("docker")
    if docker is None:
        raise Unavailable("djl: docker not found: install it, or leave options.image out and install djl-serving")
    if image.startswith("-"):
        raise SpecInvalid(f"djl: option image is {image!r}, expected an image name")
    return [
        docker, "run", "--rm", "--init", "-p", f"{HOST}:{port}:{CONTAINER_PORT}",
        "-v", f"{folder.resolve()}:/opt/ml/model:ro", "-e", f"SERVING_LOAD_MODELS={MODEL}::Python=/opt/ml/model",
        image, "serve",
    ]  # fmt: skip


def health(ping: int | None, described: object, workers: int) -> Health:
    """The verdict on a /ping status (None: not listening) and the body of GET /models/<model>.

    DJL's /ping: 200 ready or pending, 207 pending, 500 a model failed, 503 too many errors.
    """
    if ping in (500, 503):
        return Health(is_ready=False, failure=f"/ping answers {ping}: the model failed to load")
    if ping not in (200, 207):
        return Health(is_ready=False)
    models = described if isinstance(described, list) else [described]
    states = [str(model.get("status", "")) for model in models if isinstance(model, dict)]
    failed = next((state for state in states if state.upper() == "FAILED"), "")
    if failed:
        return Health(is_ready=False, failure="GET /models answers FAILED: the model failed to load")
    ready = sum(
        str(worker.get("status", "")).upper() == "READY"
        for model in models if isinstance(model, dict)
        for group in model.get("workerGroups", []) for worker in group.get("workers", [])
    )  # fmt: skip
    return Health(is_ready=ping == 200 and ready >= workers)


def _ready(process: ServerProcess, port: int, workers: int) -> bool | None:
    ping, _ = _get(port, "/ping")
    code, body = _get(port, f"/models/{MODEL}") if ping is not None else (None, "")
    try:
        described = json.loads(body) if code == 200 else []
    except ValueError:
        described = []
    found = health(ping, described, workers)
    if found.failure:
        raise LaunchFailed(f"djl: {found.failure}; its log ends:\n{process.log_tail()}")
    return True if found.is_ready else None


def _get(port: int, path: str) -> tuple[int | None, str]:
    try:
        with open_here(f"http://{HOST}:{port}{path}", 5.0) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return None, ""
