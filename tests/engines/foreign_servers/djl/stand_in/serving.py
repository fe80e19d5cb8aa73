"""A stand-in for the `djl-serving` command: it answers as DJL Serving 0.36.0 was recorded to (../recorded).

    serving.py -f CONFIG -m NAME::Python=file:///FOLDER/

Start-up states, refusals, the order of waiting requests, batches and the deaths of workers are the recorded ones;
test_djl_stand_in.py compares. STAND_IN_MINUTE_S shortens the 60 s after which a dead worker's place is free again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MINUTE_S = float(os.environ.get("STAND_IN_MINUTE_S", "60"))
DOWN_AFTER_S = 3.0
MOST_BYTES = 20 << 20
DISCONNECTED = "java.util.concurrent.ExecutionException: java.io.IOException: Python worker disconnected."
TIMED_OUT = "java.util.concurrent.TimeoutException"
NO_CACHE = {
    "x-request-id": "00000000-0000-0000-0000-000000000000",
    "pragma": "no-cache",
    "cache-control": "no-cache; no-store, must-revalidate, private",
    "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}


class Died(Exception):
    """The worker is gone."""


@dataclass
class Job:
    """One request; `done` is set when `answer` (a worker's message, and its link for a stream) or `fault` is there."""

    content: list[tuple[str, bytes]]
    done: threading.Event = field(default_factory=threading.Event)
    answer: Any = None
    fault: str = ""


class Jobs:
    """Java's PriorityBlockingQueue of jobs that all have the same priority: a heap, from which the last comes next."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.heap: list[Job] = []
        self.changed = threading.Condition()

    def offer(self, job: Job, are_all_busy: bool) -> bool:
        with self.changed:
            left = self.capacity - len(self.heap)
            if left < 1 or (left == 1 and are_all_busy):
                return False
            self.heap.append(job)
            self.changed.notify()
            return True

    def batch(self, size: int, delay_s: float) -> list[Job]:
        """A first job, what waits beside it, and what comes within the delay; one that is idle for long gives none."""
        with self.changed:
            self.changed.wait_for(lambda: self.heap)
            jobs = self._poll(size)
            end = time.monotonic() + delay_s
            while len(jobs) < size and self.changed.wait_for(lambda: self.heap, max(0.0, end - time.monotonic())):
                jobs += self._poll(size - len(jobs))
            return jobs

    def _poll(self, most: int) -> list[Job]:
        found = []
        while self.heap and len(found) < most:
            found.append(self.heap[0])
            last = self.heap.pop()
            if self.heap:
                self.heap[0] = last
        return found


class Worker:
    """A Python process and the thread that serves it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.status = "PENDING"
        self.is_busy = False
        self.link, theirs = Pipe()
        argv = [sys.executable, "-u", str(HERE / "worker.py"), str(server.folder), server.entry, str(theirs.fileno())]
        self.process = subprocess.Popen(
            argv, cwd=server.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[theirs.fileno()]
        )
        theirs.close()
        threading.Thread(target=self.copy_log, daemon=True).start()

    def copy_log(self) -> None:
        for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip()
            print(f"WARN  PyProcess W-{self.process.pid}-{self.server.name}-stdout: {text}", flush=True)

    def ask(self, requests: list[Any], timeout_s: float) -> Any:
        try:
            self.link.send((self.server.options, requests))
            if not self.link.poll(timeout_s):
                raise TimeoutError
            return self.link.recv()
        except (EOFError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise Died from error

    def load(self) -> None:
        code, message, *_ = self.ask([], float(self.server.options.get("model_loading_timeout", "240")))
        if code >= 300:
            raise RuntimeError(message)
        self.status = "READY"

    def serve(self) -> None:
        while True:
            self.is_busy = False
            jobs = self.server.jobs.batch(self.server.batch_size, self.server.delay_s)
            self.is_busy = True
            try:
                if sum(len(body) for job in jobs for _, body in job.content) > MOST_BYTES:
                    raise Died
                answer = self.ask([job.content for job in jobs], float(self.server.options.get("predict_timeout", 120)))
            except (Died, TimeoutError) as error:
                self.end(jobs, TIMED_OUT if isinstance(error, TimeoutError) else DISCONNECTED)
                return
            give(jobs, answer, self.link)

    def end(self, jobs: list[Job], fault: str) -> None:
        self.process.kill()
        self.status = "UNLOADING"
        self.server.count_death()
        for job in jobs:
            job.fault = fault
            job.done.set()
        time.sleep(MINUTE_S)
        self.server.workers.remove(self)


def give(jobs: list[Job], answer: Any, link: Connection) -> None:
    """Each job its own part of a batch's answer, by the number in its key."""
    code, message, properties, content = answer
    if len(jobs) == 1:
        jobs[0].answer = (code, message, properties, b"".join(body for _, body in content or ()), link)
        jobs[0].done.set()
        while content is None and jobs[0].answer is not None:  # its stream is read by whoever answers
            time.sleep(0.005)
        return
    for index, job in enumerate(jobs):
        key = f"batch_{index}."
        body = next((value for name, value in content if name == key), b"") if code < 300 else content[0][1]
        job.answer = (code, message, properties, body, None)
        job.done.set()


class Server:
    """The model, its queue and its workers."""

    def __init__(self, name: str, folder: Path, config: dict[str, str]) -> None:
        self.name, self.folder, self.config = name, folder, config
        settings = read(folder / "serving.properties")
        self.options = {key.removeprefix("option."): value for key, value in settings.items()} | {"handler": "handle"}
        self.entry = settings.get("option.entryPoint", "model.py")
        self.batch_size = int(settings.get("batch_size", "1"))
        self.delay_ms = int(settings.get("max_batch_delay", "100"))
        self.delay_s = self.delay_ms / 1e3
        self.retries = int(settings.get("retry_threshold", "0"))
        self.minimum = int(settings.get("minWorkers", "1"))
        self.maximum = int(settings.get("maxWorkers", str(self.minimum)))
        self.jobs = Jobs(int(settings.get("job_queue_size", "1000")))
        self.workers: list[Worker] = []
        self.deaths = 0
        self.is_failed = self.is_gone = False
        self.growing = threading.Lock()

    @property
    def ready(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.status == "READY"]

    @property
    def status(self) -> str:
        return "FAILED" if self.is_failed else "Healthy" if self.listed else "Unhealthy"

    @property
    def listed(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.status != "PENDING"]

    def add_worker(self) -> None:
        worker = Worker(self)
        self.workers.append(worker)
        try:
            worker.load()
        except Exception:
            self.workers.remove(worker)
            worker.process.kill()
            worker.process.wait()
            raise
        threading.Thread(target=worker.serve, daemon=True).start()

    def load(self) -> None:
        """Raises what a worker died of."""
        while len(self.workers) < self.minimum:
            self.add_worker()

    def grow(self) -> None:
        """One more worker where there may be one; a worker that is still loading is not counted, as recorded."""
        if len(self.listed) < self.maximum and self.growing.acquire(blocking=False):
            threading.Thread(target=self.add_and_release, daemon=True).start()

    def add_and_release(self) -> None:
        try:
            self.add_worker()
        finally:
            self.growing.release()

    def count_death(self) -> None:
        self.deaths += 1
        self.is_failed = self.deaths > self.retries

    def submit(self, job: Job) -> tuple[str, str] | None:
        """None when it is queued, else the type and the sentence of its refusal."""
        if self.is_failed:
            return "WlmException", f"Model is not ready: {self.name}"
        ready = self.ready
        are_all_busy = all(worker.is_busy for worker in ready)
        if not ready or not self.jobs.offer(job, are_all_busy):
            self.grow()
            return "WlmCapacityException", f"Worker queue capacity exceeded for model: {self.name}"
        if len(self.jobs.heap) > 2 * self.batch_size:
            self.grow()
        return None

    def described(self) -> list[Any]:
        workers = [{"id": n, "startTime": "<time>", "status": worker.status} for n, worker in enumerate(self.listed, 1)]
        group = {
            "device": {"deviceType": "cpu", "deviceId": -1}, "minWorkers": self.minimum, "maxWorkers": self.maximum,
            "workers": workers,
        }  # fmt: skip
        model = {
            "modelName": self.name, "modelUrl": f"{self.folder.as_uri()}/", "batchSize": self.batch_size,
            "maxBatchDelayMillis": self.delay_ms, "maxIdleSeconds": 60, "queueSize": self.jobs.capacity,
            "requestInQueue": len(self.jobs.heap), "status": self.status, "loadedAtStartup": True,
            "workerGroups": [group],
        }  # fmt: skip
        return [{"workflowName": self.name, "models": [model]}]


class Answers(BaseHTTPRequestHandler):
    """The HTTP side."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "", ""
    model: Server

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name = url.path.rpartition("/")[2]
        model = None if self.model.is_gone else self.model
        if url.path == "/ping":
            states = {} if model is None else {model.name: {"status": model.status}}
            self.json(500 if model and model.is_failed else 200, states)
        elif url.path == "/models":
            state = "FAILED" if self.model.is_failed else "READY"
            listed = {"modelName": self.model.name, "modelUrl": f"{self.model.folder.as_uri()}/", "status": state}
            self.json(200, {"models": [listed] if model else []})
        elif url.path.startswith("/models/"):
            self.manage(name, model, dict(urllib.parse.parse_qsl(url.query)))
        elif url.path.startswith("/predictions/") and (model is None or name != model.name):
            self.refuse(404, "ModelNotFoundException", f"Model or workflow not found: {name}")
        elif url.path.startswith("/predictions/") or url.path == "/invocations":
            self.predict(self.contents(body, url.query))
        else:
            text = "Requested resource is not found, please refer to API document."
            self.refuse(404, "ResourceNotFoundException", text)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def manage(self, name: str, model: Server | None, query: dict[str, str]) -> None:
        if model is None or name != model.name:
            self.refuse(404, "ModelNotFoundException", f"Workflow not found: {name}")
        elif self.command == "PUT":
            model.minimum, model.maximum = int(query["min_worker"]), int(query["max_worker"])
            model.load()
            text = f'Workflow "{name}" worker scaled. New Worker configuration min workers:{model.minimum} '
            self.json(200, {"status": f"{text}max workers:{model.maximum}"})
        elif self.command == "DELETE":
            model.is_gone = True
            self.json(200, {"status": f'Model or workflow "{name}" unregistered'})
        else:
            self.json(200, model.described())

    def contents(self, body: bytes, query: str) -> list[tuple[str, bytes]]:
        fields = [(key, value.encode()) for key, value in urllib.parse.parse_qsl(query)]
        if self.headers.get("Content-Type") == "application/x-www-form-urlencoded":
            return fields + [(key, value.encode()) for key, value in urllib.parse.parse_qsl(body.decode())]
        return [*fields, ("data", body)]

    def predict(self, content: list[tuple[str, bytes]]) -> None:
        job = Job(content)
        refused = self.model.submit(job)
        if refused is not None:
            self.refuse(503, *refused)
            return
        job.done.wait()
        if job.fault:
            self.refuse(503, "WlmException", job.fault)
            return
        code, message, properties, body, link = job.answer
        if body or code >= 300 or link is None:
            self.send(code, body, properties, message)
        else:
            self.stream(code, properties, link)
        job.answer = None

    def stream(self, code: int, properties: dict[str, str], link: Connection) -> None:
        self.head(code, properties, "OK", {"transfer-encoding": "chunked", "connection": "keep-alive"})
        while (piece := link.recv()) != "":
            data = piece if isinstance(piece, bytes) else piece.encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            if isinstance(piece, str):
                break
        self.wfile.write(b"0\r\n\r\n")

    def json(self, code: int, value: Any) -> None:
        self.send(code, (json.dumps(value, indent=2) + "\n").encode(), {"content-type": "application/json"})

    def refuse(self, code: int, kind: str, message: str) -> None:
        self.json(code, {"code": code, "type": kind, "message": message})

    def send(self, code: int, body: bytes, properties: dict[str, str], message: str | None = None) -> None:
        self.close_connection = code >= 400
        connection = {"content-length": str(len(body)), "connection": "close" if code >= 400 else "keep-alive"}
        self.head(code, properties, message, connection)
        self.wfile.write(body)

    def head(self, code: int, properties: dict[str, str], message: str | None, more: dict[str, str]) -> None:
        self.send_response_only(code, message)
        for key, value in {**{key.lower(): value for key, value in properties.items()}, **NO_CACHE, **more}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


def read(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}


def main() -> None:
    config = read(Path(sys.argv[sys.argv.index("-f") + 1]))
    name, _, url = sys.argv[sys.argv.index("-m") + 1].partition("::Python=")
    folder = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
    model = Server(name, folder, config)
    Answers.model = model
    port = int(config["inference_address"].rpartition(":")[2])
    if config.get("wait_model_loading", "true") == "true":
        try:
            model.load()
        except Exception as error:
            print(f"ERROR ModelServer Failed register workflow: {error!r}", flush=True)
            sys.exit(1)
        ThreadingHTTPServer(("127.0.0.1", port), Answers).serve_forever()
    server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        model.load()
    except Exception:
        model.is_failed = True
        time.sleep(DOWN_AFTER_S)
        sys.exit(1)
    threading.Event().wait()


if __name__ == "__main__":
    main()
