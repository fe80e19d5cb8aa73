"""Serving: runs the model server in this process, from binding the port to finishing the last request."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop
from starlette.applications import Starlette

from engines.api import EngineSpec, QueueOrder
from engines.cache_folder import cache_root
from engines.errors import EngineError, LaunchFailed, OutOfMemory
from engines.hosted import HostedEngine
from engines.launching import any_device, load_engine, why_stale
from engines.models.folder import resolve_model
from engines.processes.waiting import EVERY_S
from engines.server.app import Front, build_app
from engines.server.listening import BACKLOG, listen
from engines.server.metrics import ServerMetrics
from engines.server.one_write import OneWriteProtocol
from engines.server.openai_front import OpenAiFront
from engines.server.pool import WorkerPool
from engines.server.worker_link import WorkersOutOfMemory
from engines.serving_properties.read import Serving, read_serving, read_text

logger = logging.getLogger("dyno.server")

KEEP_ALIVE_S = 600  # above any think time: a load generator's idle connection must not be closed under it
ORDER_NOTES: Mapping[QueueOrder, str] = {
    "djl-fifo": "waiting requests are taken as DJL Serving does until 0.33: first in, first out, a list as one job",
    "heap": "waiting requests are taken as DJL Serving does since 0.34: newest first, a list as one job",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How to run the server. `state_path` receives {"port", "state", "error"} as JSON at every change (for whoever
    launched it). `drain_s`: how long requests in flight may still take after SIGTERM."""

    properties_path: Path
    model_dir: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    model_name: str = "model"
    state_path: Path | None = None
    drain_s: int = 30
    queue_order: QueueOrder = "fifo"


def serve(options: ServeOptions) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is in flight. A second signal ends it at once.

    Raises SpecInvalid, ModelInvalid, Unavailable, PortTaken, and what the workers raised while loading.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    state = StateFile(options.state_path)
    try:
        serving = load_serving(options)
        if options.state_path is None:  # nobody launched it who has looked already
            warn_if_stale(serving.spec)
            check_model(serving.spec)
        with listen(options.host, options.port) as listener:
            host, port = listener.getsockname()[:2]
            state.write("loading", port=port)
            print(f"listening on http://{host}:{port}", file=sys.stderr, flush=True)
            uvloop.run(_Running(options, serving, state, port).run(listener))
    except EngineError as error:
        state.write("failed", error=error)
        raise
    state.write("stopped")


def load_serving(options: ServeOptions) -> Serving:
    """The properties file understood, with its model resolved. Raises SpecInvalid, ModelInvalid, Unavailable."""
    path = options.properties_path
    text = read_text(path)
    if options.model_dir is not None:
        return read_serving(text, options.model_dir, any_device)
    model_id = read_serving(text, path.parent).model_id
    return read_serving(text, _model_folder(model_id, path.parent), any_device)


def warn_if_stale(spec: EngineSpec) -> None:
    """Warn where the engine's own environment was made from another package list or Python than now."""
    if (why := why_stale(spec.engine, spec.python or "")) != "":
        logger.warning("%s", why)


def check_model(spec: EngineSpec) -> None:
    """Raises ModelInvalid for a model folder that the engine cannot serve."""
    engine = load_engine(spec.engine)
    if isinstance(engine, HostedEngine) and engine.needs_model:
        engine.check_model(spec.model_dir)


def _model_folder(model_id: str, beside: Path) -> Path:
    """The local folder that option.model_id names: a path (relative to the file), an s3:// prefix or a hub id. Absent:
    the file's own folder, as in DJL Serving."""
    if not model_id:
        return beside
    folder = beside / Path(model_id).expanduser()
    if folder.exists() or model_id.startswith(("/", ".", "~")):
        return folder
    return resolve_model("s3" if model_id.startswith("s3://") else "hub", model_id, 0, cache_root())


class StateFile:
    """The launcher's view of the server, replaced whole at every change; does nothing without a path."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._port = 0
        self._crashes = 0

    def write(self, state: str, port: int | None = None, error: Exception | None = None, crashes: int = 0) -> None:
        """Report to the launcher; port and crashes stay what they were."""
        self._crashes = max(crashes, self._crashes)
        self._port = port if port is not None else self._port
        if self._path is None:
            return
        value = {"port": self._port, "state": state, "error": None, "crashes": self._crashes}
        if error is not None:
            kind = OutOfMemory if isinstance(error, WorkersOutOfMemory) else type(error)
            value["error"] = {"kind": kind.__name__, "message": str(error)}
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(value))
        partial.replace(self._path)


class _Running:
    """One run of the server inside its event loop."""

    def __init__(self, options: ServeOptions, serving: Serving, state: StateFile, port: int) -> None:
        self._state = state
        self._port = port
        self._reports_loading = options.state_path is None
        metrics = ServerMetrics()
        self._notes = serving.notes
        if options.queue_order in ORDER_NOTES:
            self._notes = (*self._notes, ORDER_NOTES[options.queue_order])
        spec = replace(serving.spec, queue_order=options.queue_order)
        self._pool = WorkerPool(spec, serving.settings, metrics)
        front = Front(self._pool, metrics, options.model_name, self._notes)
        app = build_app(front, OpenAiFront(self._pool, metrics, options.model_name), self._lifespan)
        config = uvicorn.Config(
            app,
            http=OneWriteProtocol,
            log_config=None,
            log_level="warning",
            access_log=False,
            ws="none",
            lifespan="on",
            backlog=BACKLOG,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=options.drain_s,
        )
        self._server = _DrainingServer(config)

    async def run(self, listener: socket.socket) -> None:
        """Serve until asked to stop; raises what the workers raised while loading."""
        watching = asyncio.create_task(self._watch())
        try:
            await self._server.serve(sockets=[listener])
        finally:
            self._pool.kill()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        error = self._pool.status.error
        if isinstance(error, EngineError):
            raise error

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        for note in self._notes:
            logger.warning("%s", note)
        self._pool.start()
        yield
        await self._pool.stop()

    async def _watch(self) -> None:
        """Follow the pool: write its state; a model that cannot be loaded ends the server."""
        status, is_ready = self._pool.status, False
        while True:
            await self._changed()
            status.changed.clear()
            if status.state == "ready":
                if not is_ready:
                    gc.collect()
                    gc.freeze()  # what is alive now stays; later collections are short
                    logger.info("ready on port %d", self._port)
                is_ready = True
                self._state.write("ready", crashes=status.crashes)
            elif status.state == "failed":
                logger.error("the model has failed: %s", status.error)
                self._state.write("failed", error=status.error or LaunchFailed("unknown"))
                if isinstance(status.error, EngineError):
                    self._server.should_exit = True

    async def _changed(self) -> None:
        """Wait for the pool's next state; nobody else reports that it still loads where nobody launched it."""
        status, begin = self._pool.status, time.monotonic()
        while self._reports_loading and status.state == "loading":
            try:
                await asyncio.wait_for(status.changed.wait(), EVERY_S)
                break
            except TimeoutError:
                logger.info("still loading the model after %.0f s", time.monotonic() - begin)
        await status.changed.wait()


class _DrainingServer(uvicorn.Server):
    """uvicorn whose first signal drains and whose second ends; it never re-raises a signal it has handled."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            return
        name = signal.Signals(sig).name
        print(f"{name}: finishing what is in flight; once more to end at once", file=sys.stderr, flush=True)
        self.should_exit = True
