"""What an endpoint hosts: our own model server on the unpacked archive, or a stub where a test needs no model."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from engines.processes.http_look import http_status
from engines.processes.no_proxy import open_here
from engines.processes.server_process import Command, ServerProcess
from engines.sagemaker.package import unpack
from engines.serving_properties.java_text import format_properties, parse_properties

DJL = Path(__file__).parents[1] / "engines" / "foreign_servers" / "djl" / "stand_in" / "serving.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the container said. `pieces` are body parts as they were written; `attributes` its custom attributes."""

    status: int
    pieces: Iterator[bytes]
    content_type: str = "application/json"
    attributes: str = ""


class Container(Protocol):
    """A running container under SageMaker's contract: /ping and /invocations. Its log outlives it."""

    def is_healthy(self) -> bool: ...
    def has_ended(self) -> str: ...
    def invoke(self, body: bytes) -> Answer: ...
    def log(self) -> str: ...
    def stop(self) -> None: ...


class ServerContainer:
    """`python -m engines.server` on the archive's serving.properties; its weights come from option.model_id."""

    def __init__(self, archive: bytes, environment: dict[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="emulated-model-"))
        for name, content in unpack(archive, "model.tar.gz").items():
            (self.folder / name).write_bytes(content)
        self._state = self.folder / "state.json"
        self._output: str | None = None
        argv = self._command()
        temp_dir = Path(tempfile.gettempdir()) / f"emulated-{os.getpid()}-{secrets.token_hex(4)}"
        self._process = ServerProcess(
            Command(argv=argv, log_path=self.folder / "log", env=environment, temp_dir=temp_dir)
        )

    def _command(self) -> list[str]:
        argv = [sys.executable, "-m", "engines.server", "--properties", str(self.folder / "serving.properties")]
        return [*argv, "--host", "127.0.0.1", "--port", "0", "--state-file", str(self._state), "--drain-s", "2"]

    def is_healthy(self) -> bool:
        port = self._port()
        return bool(port) and http_status(f"http://127.0.0.1:{port}/ping") == 200

    def has_ended(self) -> str:
        return "" if self._process.exit_code() is None else self._process.log_tail(3)

    def invoke(self, body: bytes) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port(), timeout=60)
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()

        def pieces() -> Iterator[bytes]:
            try:
                while data := answer.read1(1 << 16):
                    yield data
            finally:
                connection.close()

        return Answer(
            status=answer.status,
            pieces=pieces(),
            content_type=answer.headers.get("content-type", "application/json"),
            attributes=answer.headers.get("x-amzn-sagemaker-custom-attributes", ""),
        )

    def log(self) -> str:
        if self._output is not None:
            return self._output
        return (self.folder / "log").read_text(errors="replace")

    def stop(self) -> None:
        self._process.stop(5.0)
        self._output = self.log()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _port(self) -> int:
        with suppress(OSError, ValueError):
            return int(json.loads(self._state.read_text())["port"])
        return 0


class HandlerContainer(ServerContainer):
    """AWS's image around the archive's own model.py: the stand-in for djl-serving, with the weights below
    option.model_id fetched first and their folder named in its place, as DJL Serving does. `objects` are the keys and
    contents below an s3:// prefix."""

    def __init__(
        self, archive: bytes, environment: dict[str, str], objects: Callable[[str], Iterator[tuple[str, bytes]]]
    ) -> None:
        self._objects = objects
        super().__init__(archive, environment)

    def is_healthy(self) -> bool:
        """The port stays closed until the model is loaded, as in AWS's images."""
        try:
            with open_here(f"http://127.0.0.1:{self._port()}/ping", 5.0) as answer:
                return bool(json.load(answer)["model"]["status"] == "Healthy")
        except (OSError, ValueError):
            return False

    def _command(self) -> list[str]:
        properties = self.folder / "serving.properties"
        values = parse_properties(properties.read_text())
        weights = self.folder / "fetched"
        for name, content in self._objects(values["option.model_id"]):
            path = weights / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        properties.write_text(format_properties({**values, "option.model_id": str(weights)}, comment=""))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._state.write_text(json.dumps({"port": port}))
        config = self.folder / "config.properties"
        config.write_text(f"inference_address=http://127.0.0.1:{port}\n")
        return [sys.executable, str(DJL), "-f", str(config), "-m", f"model::Python=file://{self.folder}"]


@dataclass(slots=True)
class StubContainer:
    """Answers every prompt with itself. `delay_s` per request; `statuses` are given out first, one per request."""

    ready_after_s: float = 0.0
    delay_s: float = 0.0
    statuses: list[int] = field(default_factory=list)
    dies: str = ""
    begun: float = field(default_factory=time.monotonic)
    bodies: list[Any] = field(default_factory=list)

    def is_healthy(self) -> bool:
        return not self.dies and time.monotonic() - self.begun >= self.ready_after_s

    def has_ended(self) -> str:
        return self.dies

    def invoke(self, body: bytes) -> Answer:
        asked = json.loads(body)
        self.bodies.append(asked)
        time.sleep(self.delay_s)
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return Answer(status=status, pieces=iter((b'{"code": %d, "message": "the stub says so"}' % status,)))
        texts = asked["inputs"] if isinstance(asked["inputs"], list) else [asked["inputs"]]
        if asked.get("stream"):
            return Answer(status=200, pieces=_lines(texts[0]), content_type="application/jsonlines")
        rows = [{"generated_text": text} for text in texts]
        body = json.dumps(rows if isinstance(asked["inputs"], list) else rows[0]).encode()
        return Answer(status=200, pieces=iter((body,)), attributes=f"tokens={sum(len(t.split()) for t in texts)}")

    def log(self) -> str:
        return "\n".join(["the stub begins", self.dies][: 2 if self.dies else 1])

    def stop(self) -> None:
        return


def _lines(text: str) -> Iterator[bytes]:
    for index, word in enumerate(text.split()):
        yield json.dumps({"token": {"id": index, "text": word}}, ensure_ascii=False).encode() + b"\n"
    yield json.dumps({"generated_text": text}, ensure_ascii=False).encode() + b"\n"
