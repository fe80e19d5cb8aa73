"""DJL Serving's real Python worker behind an HTTP front of ours: `python -m engines.foreign_servers.djl.front`.

For machines that have the worker (the jar ai.djl.python:python) and not the server. Of the server's rules these are
repeated: the order of what waits, a list as one job, batches and their delay, the place that is kept free, the port
that opens when every worker has loaded, and the end of the model by one death more than retry_threshold. A worker that
may be replaced is replaced at once. Streams arrive whole.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engines.api import GenerateParams, QueueOrder
from engines.errors import EngineError, LaunchFailed
from engines.foreign_servers.djl.messages import Answered, Pairs, batch_message, load_message, read_answer
from engines.hosted import HOST
from engines.registry import HF_ENTRY_POINT
from engines.server.listening import listen
from engines.server.queue import Job, JobQueue, QueueFull, collect_batch
from engines.serving_properties.java_text import parse_properties
from engines.serving_properties.read import read_text
from engines.setting import AXES, Axis, Setting

MODEL = "model"
STARTED = b"Python engine started."
CONNECT_S = 120.0
"""As long as DJL Serving waits for a worker's first line."""


@dataclass(slots=True, kw_only=True, eq=False)
class Asked(Job):
    """A request as it came: the entries of its content, query parameters among them."""

    content: Pairs = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the folder's serving.properties asks of the server, with DJL Serving's defaults."""

    options: Mapping[str, str]
    entry_point: str
    setting: Setting
    retry_threshold: int
    predict_timeout_s: float
    load_timeout_s: float

    @classmethod
    def of(cls, folder: Path) -> Rules:
        """Those of `folder`. Raises EngineError, ValueError."""
        values = parse_properties(read_text(folder / "serving.properties"))
        usual = "model.py" if (folder / "model.py").is_file() else HF_ENTRY_POINT
        options = {key.removeprefix("option."): value for key, value in values.items()}
        numbers: dict[str, Any] = {axis.name: _number(values, axis) for axis in AXES if isinstance(axis.default, int)}
        return cls(
            options=options,
            entry_point=values.get("option.entryPoint", usual),
            setting=Setting(**numbers),
            retry_threshold=int(values.get("retry_threshold", "0")),
            predict_timeout_s=float(values.get("option.predict_timeout", "120")),
            load_timeout_s=float(values.get("option.model_loading_timeout", "240")),
        )


def _number(values: Mapping[str, str], axis: Axis) -> int:
    default = axis.default if axis.default_in_file is None else axis.default_in_file
    return int(values.get(axis.key, str(default)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The worker's program, its version, the Python that runs it, the folder it serves, and where its socket lies."""

    engine: Path
    version: tuple[int, ...]
    python: str
    folder: Path
    sockets: Path


class Worker:
    """One Python process of DJL Serving's."""

    def __init__(self, place: Place, rules: Rules, number: int) -> None:
        self.place, self.rules, self.number = place, rules, number
        self.is_ready = self.is_busy = False
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Started and loaded. Raises LaunchFailed with its reason, OSError, TimeoutError."""
        place, name = self.place, self.place.sockets / f"djl_sock.{self.number}"
        name.unlink(missing_ok=True)
        argv = [place.python, "-u", str(place.engine / "djl_python_engine.py"), "--sock-type", "unix", "--sock-name"]
        argv += [str(name), "--model-dir", str(place.folder), "--entry-point", self.rules.entry_point]
        env = {**os.environ, "PYTHONPATH": f"{place.engine}:{place.folder}", "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = await asyncio.create_subprocess_exec(
            *argv, "--device-id", "-1", cwd=place.folder, env=env, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        started = asyncio.Event()
        self._log = asyncio.create_task(self._copy_log(started))
        ended = asyncio.create_task(self._process.wait())
        waiting = asyncio.create_task(started.wait())
        await asyncio.wait({ended, waiting}, timeout=CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not started.is_set():
            raise LaunchFailed("the worker ended before it listened" if ended.done() else "the worker never listened")
        self._reader, self._writer = await asyncio.open_unix_connection(str(name))
        properties = {**self.rules.options, "model_dir": str(place.folder), "device_id": "-1"}
        answer = await self._exchange(load_message(properties, place.version), self.rules.load_timeout_s)
        if answer.code >= 300:
            raise LaunchFailed(answer.message)
        self.is_ready = True

    async def ask(self, requests: list[Pairs]) -> Answered:
        """One call of its handler. Raises OSError, EOFError, TimeoutError where it is of no use any more."""
        data = batch_message(requests, "application/json", self.place.version)
        return await self._exchange(data, self.rules.predict_timeout_s)

    async def _exchange(self, data: bytes, timeout_s: float) -> Answered:
        self._writer.write(data)
        await self._writer.drain()
        return await asyncio.wait_for(read_answer(self._reader, self.place.version), timeout_s)

    async def _copy_log(self, started: asyncio.Event) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            text = line.decode(errors="replace").rstrip()
            print(f"WARN  PyProcess W-{self._process.pid}-{MODEL}-stdout: {text}", flush=True)
            if STARTED in line:
                started.set()

    async def end(self) -> None:
        """Killed, if it still runs."""
        self.is_ready = False
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._process is not None:
            await self._process.wait()
            await self._log


class Front:
    """The HTTP side, the queue and the workers."""

    def __init__(self, place: Place, rules: Rules, order: QueueOrder) -> None:
        self.place, self.rules = place, rules
        self.queue = JobQueue(rules.setting.job_queue_size, order)
        self.workers: list[Worker] = []
        self.deaths = self._last_job = 0
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def is_failed(self) -> bool:
        """Whether the model has failed for good."""
        return self.deaths > self.rules.retry_threshold

    async def start(self) -> None:
        """Every worker, one after the other as DJL Serving starts them. Raises as Worker.start."""
        for number in range(self.rules.setting.workers):
            await self._add_worker(number)

    async def stop(self) -> None:
        """No worker is left."""
        for task in self._serving:
            task.cancel()
        for worker in self.workers:
            await worker.end()

    async def _add_worker(self, number: int) -> None:
        worker = Worker(self.place, self.rules, number)
        self.workers.append(worker)
        await worker.start()
        task = asyncio.create_task(self._serve(worker))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, worker: Worker) -> None:
        setting = self.rules.setting
        while True:
            worker.is_busy = False
            jobs = await collect_batch(self.queue, setting.batch_size, setting.max_batch_delay_ms)
            if not jobs:
                continue
            worker.is_busy = True
            try:
                answer = await worker.ask([job.content for job in jobs if isinstance(job, Asked)])
            except (OSError, EOFError) as error:  # TimeoutError among them
                await self._died(worker, jobs, error)
                return
            for job, body in zip(jobs, answer.bodies(len(jobs)), strict=True):
                if not job.result.done():
                    job.result.set_result({"code": answer.code, "headers": answer.properties, "body": body})

    async def _died(self, worker: Worker, jobs: list[Job], error: Exception) -> None:
        self.deaths += 1
        self.workers.remove(worker)
        await worker.end()
        why = "Predict timed out" if isinstance(error, TimeoutError) else "Python worker disconnected."
        for job in jobs:
            job.fail(LaunchFailed(why))
        if self.is_failed:
            self.queue.fail_all(LaunchFailed(f"Model is not ready: {MODEL}"))
            return
        try:
            await self._add_worker(worker.number)
        except (EngineError, OSError) as again:
            print(f"ERROR the worker did not load again: {again}", flush=True)
            self.deaths = self.rules.retry_threshold + 1

    async def predict(self, request: Request) -> Response:
        """POST /predictions/model and /invocations."""
        content = [*((key, value.encode()) for key, value in request.query_params.multi_items())]
        content.append(("data", await request.body()))
        if self.is_failed:
            return _refusal(503, "WlmException", f"Model is not ready: {MODEL}")
        self._last_job += 1
        result: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        job = Asked(job_id=self._last_job, text="", params=GenerateParams(), result=result, content=content)
        try:
            self.queue.offer([job], are_all_busy=all(worker.is_busy for worker in self.workers))
            answer = await result
        except QueueFull:
            return _refusal(503, "WlmCapacityException", f"Worker queue capacity exceeded for model: {MODEL}")
        except LaunchFailed as error:
            return _refusal(503, "WlmException", str(error))
        headers = {name.lower(): value for name, value in answer["headers"].items()}
        return Response(answer["body"], answer["code"], headers)

    async def ping(self, request: Request) -> Response:
        """GET /ping."""
        state = "FAILED" if self.is_failed else "Healthy"
        return JSONResponse({MODEL: {"status": state}}, 500 if self.is_failed else 200)

    async def described(self, request: Request) -> Response:
        """GET /models/model: a list of workflows."""
        workers = [{"id": each.number, "status": "READY"} for each in self.workers if each.is_ready]
        state = "FAILED" if self.is_failed else "Healthy"
        model = {"modelName": MODEL, "status": state, "workerGroups": [{"workers": workers}]}
        return JSONResponse([{"workflowName": MODEL, "models": [model]}])


def _refusal(code: int, kind: str, text: str) -> Response:
    return JSONResponse({"code": code, "type": kind, "message": text}, code)


def unpacked(jar: Path, folder: Path) -> Path:
    """The worker's program, from the jar. Raises LaunchFailed where that holds none."""
    try:
        with zipfile.ZipFile(jar) as archive:
            names = [name for name in archive.namelist() if name.endswith(".py") and ".." not in Path(name).parts]
            archive.extractall(folder, names)
    except (OSError, zipfile.BadZipFile) as error:
        raise LaunchFailed(f"{jar}: cannot be unpacked: {error}; download ai.djl.python:python again") from error
    if not (folder / "djl_python_engine.py").is_file():
        raise LaunchFailed(f"{jar}: no djl_python_engine.py in it; expected a jar of ai.djl.python:python")
    return folder


async def serve(front: Front, port: int) -> None:
    """Until SIGTERM. Raises what a worker that does not load raises; the port opens after that."""
    loop = asyncio.get_running_loop()
    starting = asyncio.create_task(front.start())
    loop.add_signal_handler(signal.SIGTERM, starting.cancel)
    try:
        await starting
        routes = [
            Route("/ping", front.ping), Route(f"/models/{MODEL}", front.described),
            Route("/invocations", front.predict, methods=["POST"]),
            Route(f"/predictions/{MODEL}", front.predict, methods=["POST"]),
        ]  # fmt: skip
        config = uvicorn.Config(
            Starlette(routes=routes), log_config=None, access_log=False, ws="none", lifespan="off",
            timeout_keep_alive=600, timeout_graceful_shutdown=5,
        )  # fmt: skip
        with listen(HOST, port) as listener:
            await uvicorn.Server(config).serve(sockets=[listener])
    finally:
        await front.stop()


def main() -> int:
    """Exit code: 0 after SIGTERM, 1 where the model did not load, as DJL Serving ends."""
    parser = argparse.ArgumentParser(prog="python -m engines.foreign_servers.djl.front", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="model folder with its serving.properties")
    parser.add_argument("--jar", type=Path, required=True, help="python-<version>.jar of ai.djl.python:python")
    parser.add_argument("--version", required=True, help="the worker's version, such as 0.34.0")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the workers")
    parser.add_argument("--work", type=Path, required=True, help="empty folder for the program and its sockets")
    parser.add_argument("--queue-order", choices=get_args(QueueOrder), default="fifo", help="how requests are taken")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    try:
        place = Place(
            engine=unpacked(args.jar, args.work / "djl_python"),
            version=tuple(int(part) for part in args.version.split(".")),
            python=args.python,
            folder=args.folder.absolute(),
            sockets=args.work,
        )
        asyncio.run(serve(Front(place, Rules.of(args.folder), args.queue_order), args.port))
    except (EngineError, OSError, ValueError) as error:
        print(f"ERROR the model did not load: {error}", flush=True)
        return 1
    except asyncio.CancelledError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
