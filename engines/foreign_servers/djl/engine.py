"""DJL Serving, launched by its own program or its docker image on a model folder that holds our backend.

Proven against its real Python worker and a stand-in that answers as a recorded 0.36.0 did; the whole server is in no
package index, so only a machine that has one has run it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.api import (
    MODEL_FOLDER,
    Availability,
    Capabilities,
    Dialect,
    Endpoint,
    EngineFacts,
    EngineSpec,
    djl_queue_order,
)
from engines.environments.locate import interpreter
from engines.errors import EngineError, LaunchFailed, NotReady, OutOfMemory, SpecInvalid, Unavailable
from engines.foreign_servers.djl.command import MODEL, djl_command, started_with
from engines.foreign_servers.djl.folder import PACKAGES, backend_spec, write_djl_folder
from engines.foreign_servers.djl.found import Found, find_djl, why_not_found
from engines.foreign_servers.djl.health import BIND_FAILED, SEARCHED_LINES, last_words, look, ping_failure
from engines.foreign_servers.java_servers.java import java_problem
from engines.foreign_servers.java_servers.multi_model_server import backend_engine, of_whole_requests
from engines.foreign_servers.starting.docker_image import DOCKER, check_image
from engines.foreign_servers.starting.running import RunningForeignServer
from engines.foreign_servers.starting.start_script import removal
from engines.hosted import HOST, STOP_GRACE_S
from engines.metrics_page import DJL, page_at
from engines.processes.out_of_memory import shows_out_of_memory
from engines.processes.server_process import Command, ServerProcess, free_port
from engines.processes.temp_folders import fresh_path
from engines.serving_properties.write import MEASURED_WITH
from engines.spec_check import check_spec

CONTAINER_PORT = 8080
_OURS = Dialect()
_LOOK_AGAIN_S = 1.0
_LOOK_OFTEN_S = 5.0
_OPTIONS = {
    "backend": f"what model.py hosts: {', '.join(PACKAGES)} (default t5)",
    "image": "docker image to run instead, an -lmi or -cpu-full one (the plain one has no Python)",
    "command": "a DJL Serving: its program or its folder (default: DJL_SERVING_HOME, the path, an installed release)",
}


class DjlEngine:
    """Engine `djl`. The front end, its queue and its batches are DJL Serving's; the answers are our backend's."""

    name = "djl"
    needs_model = True

    def __init__(self, command: str = "", image: str = "") -> None:
        self._command = command
        self._image = image

    def placed(self, python: str, command: str, image: str = "") -> DjlEngine:
        """DJL Serving by that program, folder or docker image; its workers' Python is looked for at launch."""
        return DjlEngine(command, image)

    def probe(self) -> Availability:
        """Whether a DJL Serving is there, and which; for a named image docker, which looks for it when it starts."""
        if self._image:
            try:
                check_image(self.name, self._image)
            except (Unavailable, SpecInvalid) as error:
                return Availability(is_available=False, reason=str(error))
            return Availability(is_available=True, note=f"by docker, image {self._image}")
        found = find_djl(self._command)
        if found is not None:
            if found.version and (problem := java_problem()):
                return Availability(is_available=False, reason=problem)
            version = found.version or "of unknown version"
            note = f"DJL Serving {version}, {found.by}: {found.command}"
            return Availability(is_available=True, note=note, versions={"djl-serving": version})
        return Availability(is_available=False, reason=why_not_found(self._command))

    def capabilities(self) -> Capabilities:
        """Those of the t5 backend, whole requests only."""
        return of_whole_requests(_OPTIONS)

    @contextmanager
    def launch(self, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> Iterator[RunningDjl]:
        """Write the model folder to `workdir`/model, start DJL Serving on it, wait until its workers are ready."""
        inner = self._checked(spec)
        image = str(spec.options.get("image", ""))
        found = None if image else _found(str(spec.options.get("command", "")))
        folder = write_djl_folder(inner, workdir / MODEL_FOLDER, links_weights=not image)
        port, temp_dir = free_port(), fresh_path("server")
        if found is None:
            command = Command(
                argv=docker_argv(image, folder, port, temp_dir.name),
                log_path=workdir / "server.log",
                temp_dir=temp_dir,
                cwd=workdir,
                last=removal(temp_dir.name),
            )
        else:
            python = str(interpreter(spec.python, spec.engine)) if spec.python else sys.executable
            command = djl_command(found.command, python, folder, workdir, port, temp_dir)
        process = ServerProcess(command)
        try:
            wait_for_workers(process, port, spec.workers, ready_timeout_s)
            backend = backend_engine(inner.engine)
            yield RunningDjl(
                process,
                endpoint_at(port),
                EngineFacts(
                    effective_dtype=backend.capabilities().effective_dtypes[spec.dtype],
                    versions={
                        **backend.probe().versions,
                        "djl-serving": (found.version or "unknown") if found else image,
                    },
                    load_s=0.0,
                    is_slow_to_warm=True,
                    queue_order=djl_queue_order(found.numbers) if found and found.version else "",
                    notes=(
                        f"front end DJL Serving, workers run {inner.engine}",
                        f"{inner.threads} threads, {inner.tensor_parallel_degree} tensor-parallel rank(s) per worker",
                        "load time is part of the launch",
                        *(started_with() if found else ()),
                    ),
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


class RunningDjl(RunningForeignServer):
    """A RunningEngine: DJL Serving and its Python workers."""

    _known: tuple[int, ...] = ()
    _look_s = _look_often_s = -math.inf
    _failure: EngineError | None = None

    def failure(self) -> EngineError | None:
        """None while it serves; else why not. Where a worker has died, the server lives on and refuses everything.

        A load asks ten times a second, and the server, which is being measured, is asked once a second, and each time
        for a while after one of its processes is gone: it learns of that by the next request.
        """
        if self._failure is not None or (ended := super().failure()) is not None:
            return self._failure or ended
        now_s = time.monotonic()
        if any(not Path(f"/proc/{pid}").exists() for pid in self._known):
            self._look_s, self._look_often_s = now_s, now_s + _LOOK_OFTEN_S
        if now_s < self._look_s:
            return None
        self._known = self._process.pids
        self._look_s = now_s + (0.0 if now_s < self._look_often_s else _LOOK_AGAIN_S)
        if why := ping_failure(int(self.endpoint.url.split(":")[2].partition("/")[0])):
            self._failure = _failed(why, self._process)
        return self._failure


def _found(wanted: str) -> Found:
    found = find_djl(wanted)
    if found is None:
        raise Unavailable(f"djl: {why_not_found(wanted)}")
    if found.version and (problem := java_problem()):  # a program of another kind may bring its own Java
        raise Unavailable(f"djl: {problem}")
    return found


def endpoint_at(port: int, dialect: Dialect = _OURS) -> Endpoint:
    """Where DJL Serving, started by us, answers; `dialect` is that of the folder's handler."""
    url = f"http://{HOST}:{port}"
    page = page_at(url, DJL, "/server/metrics")
    name = f"{url}/predictions/{MODEL}"
    return Endpoint(url=name, protocol="djl", model_name=MODEL, dialect=dialect, metrics=page)


def docker_argv(image: str, folder: Path, port: int, name: str) -> list[str]:
    """The command line that serves `folder` as SageMaker would: `serve`, the model at /opt/ml/model, read-only.

    Raises what check_image raises.
    """
    check_image(DjlEngine.name, image)
    return [
        DOCKER, "run", "--rm", "--init", "--name", name, "-p", f"{HOST}:{port}:{CONTAINER_PORT}",
        "-v", f"{folder.resolve()}:/opt/ml/model:ro", "-e", f"SERVING_LOAD_MODELS={MODEL}::Python=/opt/ml/model",
        *(word for pair in MEASURED_WITH.items() for word in ("-e", "=".join(pair))), image, "serve",
    ]  # fmt: skip


def wait_for_workers(process: ServerProcess, port: int, workers: int, timeout_s: float) -> None:
    """Return when `workers` of them are ready. Raises NotReady; LaunchFailed with a worker's last words."""
    try:
        process.wait_for(lambda: _ready(process, port, workers), timeout_s, "ready workers")
    except NotReady:
        raise
    except LaunchFailed as error:
        if BIND_FAILED in process.log_tail(SEARCHED_LINES):
            raise LaunchFailed(f"djl: port {port} was taken by another program meanwhile; run it again") from error
        raise _failed(f"the model failed to load ({str(error).partition(';')[0]})", process) from error


def _ready(process: ServerProcess, port: int, workers: int) -> bool | None:
    found = look(port, MODEL, workers)
    if found.failure:
        raise LaunchFailed(found.failure)
    return True if found.is_ready else None


def _failed(why: str, process: ServerProcess) -> LaunchFailed:
    """The error of a model that failed, with the last words of its worker."""
    words = last_words(process.log_tail(SEARCHED_LINES))
    kind = OutOfMemory if shows_out_of_memory(words) else LaunchFailed
    if not words:
        return kind(f"djl: {why}; its log {process.command.log_path} is empty")
    return kind(f"djl: {why}; its worker's last words (whole log: {process.command.log_path}):\n{words}")
