"""A written model folder for DJL Serving, started by what this machine has of it.

That is the whole server; or its Python worker alone (the jar ai.djl.python:python in the folder that DYNO_DJL_WORKER
names) behind an HTTP front of ours; or neither, and then our own server hosts the same model files.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from engines.api import Dialect, EngineFacts, EngineSpec, RunningEngine, djl_queue_order
from engines.errors import Unavailable
from engines.foreign_servers.djl.command import djl_command, started_with
from engines.foreign_servers.djl.engine import RunningDjl, endpoint_at, wait_for_workers
from engines.foreign_servers.djl.folder import backend_spec
from engines.foreign_servers.djl.found import Found, find_djl
from engines.foreign_servers.java_servers.java import java_problem
from engines.hosted import HERE, STOP_GRACE_S, serve_file
from engines.launching import engine_here, serving_python
from engines.processes.child_environment import child_environment
from engines.processes.server_process import Command, ServerProcess, free_port
from engines.processes.temp_folders import fresh_path
from engines.processes.threads import compute_threads
from engines.registry import traits
from engines.serving_properties.write import MEASURED_WITH, spec_to_properties

WORKER_VARIABLE = "DYNO_DJL_WORKER"
FIRST_WITHOUT_T5 = 5
"""From this transformers on DJL's Hugging Face handler ends with 'Unknown task text2text-generation'."""
_LOOK_S = 30.0
_JAR = re.compile(r"python-(\d+\.\d+\.\d+)\.jar")

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderServer:
    """What starts a folder: DJL Serving (`found`), its worker of `version` from `jar`, or our own server. `sentence`
    names it, and what of DJL Serving is missing. `python` runs the workers ('': the interpreter that was measured)."""

    sentence: str
    python: str = ""
    found: Found | None = None
    jar: Path | None = None
    version: str = ""


def server_for(version: Version, engine: str, python: str = "", command: str = "") -> FolderServer:
    """What this machine has for a folder written for that version of DJL Serving and that measured engine, in the
    environment `python` ('': the engine's usual one). `command` is the DJL Serving that was measured, where one was
    named."""
    order = "newest first" if djl_queue_order(version) == "heap" else "first in, first out"
    ours = f"under our own server with its queue ({order})"
    if traits(engine).container_entry_point and (problem := _handler_problem(serving_python(engine, python or None))):
        return FolderServer(sentence=f"{ours}: {problem}")
    found = find_djl(command)
    if found is not None and not (found.version and java_problem()):
        name = f"DJL Serving {found.version or 'of unknown version'}"
        beside = ", ".join(f"{name}={value}" for name, value in MEASURED_WITH.items())
        return FolderServer(sentence=f"under {name} ({found.by}) with {beside}", found=found)
    why = f"DJL Serving cannot run ({java_problem()})" if found else "no DJL Serving is here"
    jars = _jars()
    if jars:
        # The newest that is no newer than the container; the oldest where all are.
        number = max((each for each in jars if each <= version), default=min(jars))
        name = ".".join(str(part) for part in number)
        sentence = f"worker real, front ours: DJL Serving's Python worker {name}, our front with its queue ({order})"
        return FolderServer(sentence=f"{sentence}; {why}", jar=jars[number], version=name)
    return FolderServer(
        sentence=f"{ours}: {why}, and no worker of it ({WORKER_VARIABLE} names no folder with a python-<version>.jar)"
    )


@contextmanager
def serve_folder(
    server: FolderServer, version: Version, folder: Path, spec: EngineSpec, workdir: Path, ready_timeout_s: float
) -> Iterator[RunningEngine]:
    """The folder, served; `spec` is the candidate that it was written for, `version` DJL Serving's. Raises as
    Engine.launch does."""
    workdir.mkdir(parents=True, exist_ok=True)
    inner = backend_spec(spec) if traits(spec.engine).has_model_folder else spec
    if server.found is None and server.jar is None:
        with _served_by_ours(version, folder, inner, workdir, ready_timeout_s) as running:
            yield running
        return
    port, temp_dir = free_port(), fresh_path("server")
    place = serving_python(inner.engine, inner.python)
    python = server.python or str(place or sys.executable)
    command = _command(server, version, folder, workdir, (port, temp_dir, python))
    # As the file's comment asks for somebody else's handler; ours set their own threads, whatever DJL's script sets.
    threads = compute_threads(inner) if traits(inner.engine).container_entry_point else 1
    env = {**command.env, "OMP_NUM_THREADS": str(threads)}
    process = ServerProcess(replace(command, env=env))
    try:
        wait_for_workers(process, port, spec.workers, ready_timeout_s)
        yield RunningDjl(
            process,
            endpoint_at(port, Dialect(knows_details=not traits(inner.engine).container_entry_point)),
            _facts(server, version, inner),
        )
    finally:
        process.stop(STOP_GRACE_S)


def _command(
    server: FolderServer, version: Version, folder: Path, workdir: Path, place: tuple[int, Path, str]
) -> Command:
    port, temp_dir, python = place
    if server.found is not None:
        return djl_command(server.found.command, python, folder, workdir, port, temp_dir)
    if server.jar is None:
        raise Unavailable(server.sentence)
    argv = [sys.executable, "-u", "-m", "engines.foreign_servers.djl.front", "--folder", str(folder.absolute())]
    argv += ["--jar", str(server.jar), "--version", server.version, "--python", python, "--work", str(temp_dir)]
    argv += ["--queue-order", djl_queue_order(version), "--port", str(port)]
    env = {**child_environment(), "PYTHONUNBUFFERED": "1"}
    return Command(argv=argv, log_path=workdir / "server.log", env=env, temp_dir=temp_dir)


def _facts(server: FolderServer, version: Version, inner: EngineSpec) -> EngineFacts:
    engine = engine_here(inner.engine)
    probed = engine.probe()
    dtypes = engine.capabilities().effective_dtypes if probed.is_available else {}
    name = "djl-serving" if server.found else "djl-python-worker"
    known = (server.found.version if server.found else server.version) or "unknown"
    order = djl_queue_order(server.found.numbers if server.found and server.found.version else version)
    return EngineFacts(
        effective_dtype=dtypes.get(inner.dtype, inner.dtype),  # measured in another environment, or not made here
        versions={**probed.versions, name: known},
        load_s=0.0,
        is_slow_to_warm=server.found is not None,
        queue_order=order,
        notes=(server.sentence, "load time is part of the launch", *(started_with() if server.found else ())),
    )


@contextmanager
def _served_by_ours(
    version: Version, folder: Path, inner: EngineSpec, workdir: Path, ready_timeout_s: float
) -> Iterator[RunningEngine]:
    """Our server on the model files in `folder`, or on a model that the folder's file leaves to the container."""
    place = serving_python(inner.engine, inner.python)
    model_dir = folder if (folder / "config.json").is_file() else inner.model_dir
    path = workdir / "serving.properties"
    written = replace(inner, model_dir=model_dir.absolute(), python=str(place) if place else None)
    path.write_text(spec_to_properties(written, ready_timeout_s), encoding="ascii")
    front = replace(HERE, queue_order=djl_queue_order(version))
    with serve_file(path, None, workdir, ready_timeout_s, front) as running:
        yield running


def _handler_problem(python: Path | None) -> str:
    """Why DJL's Hugging Face handler cannot run in that environment; '' where it can. The LMI images have what it
    imports."""
    where = f"in {python}" if python else "here"
    if not _version_in(python, "peft"):
        return f"DJL's Hugging Face handler imports peft, which is not installed {where}"
    version = _version_in(python, "transformers")
    is_older = version != "" and int(version.partition(".")[0]) < FIRST_WITHOUT_T5
    found = f"{version} is" if version else "none is"
    return "" if is_older else f"DJL's Hugging Face handler wants transformers 4 for T5, and {found} installed {where}"


def _version_in(python: Path | None, package: str) -> str:
    """The version of a package in the environment of `python` (None: this one); '' where it is not installed."""
    if python is None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return ""
    look = [str(python), "-c", f"from importlib import metadata; print(metadata.version({package!r}))"]
    try:
        done = subprocess.run(look, capture_output=True, text=True, timeout=_LOOK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _jars() -> dict[Version, Path]:
    """Version -> jar, of the folder that WORKER_VARIABLE names."""
    folder = os.environ.get(WORKER_VARIABLE, "")
    found = sorted(Path(folder).glob("python-*.jar")) if folder else []
    return {
        tuple(int(part) for part in match.group(1).split(".")): path
        for path in found
        if (match := _JAR.fullmatch(path.name))
    }
