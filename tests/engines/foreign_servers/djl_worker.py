"""The real Python worker of DJL Serving, from the jars that DYNO_DJL_WORKER names, driven as its Java side drives it.

A jar is Maven Central's ai.djl.python:python (Apache-2.0); only its .py files are used. A message is written as Java
writes it: text lengths have 16 bits until 0.26, 32 later.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

WHERE = "DYNO_DJL_WORKER"
VERSIONS = ("0.20.0", "0.25.0", "0.34.0")
CACHE = "cache"
"""The worker's cache folder, in its work folder: what it converts would lie there."""

Pairs = Sequence[tuple[str, bytes]]


def jar(version: str) -> Path:
    """The jar of that version; skips the test where there is none."""
    folder = os.environ.get(WHERE)
    path = Path(folder or "") / f"python-{version}.jar"
    if not folder or not path.is_file():
        pytest.skip(f"no python-{version}.jar (Maven Central's ai.djl.python:python) in the folder {WHERE}={folder}")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a worker sent back."""

    code: int
    message: str
    properties: Mapping[str, str]
    content: Pairs

    def bodies(self, count: int) -> list[bytes]:
        """The body of each request of a batch, as PyPredictor gives them out: by count, then by the number in the
        key."""
        assert len(self.content) == count, self.content
        if count == 1:
            return [self.content[0][1]]
        found = {int(key.partition(".")[0].removeprefix("batch_")): body for key, body in self.content}
        return [found[index] for index in range(count)]


class DjlWorker:
    """A started worker. `ask` and `load` write a message and read the answer."""

    def __init__(self, stream: io.BufferedRWPair, *, is_narrow: bool) -> None:
        self._stream = stream
        self._width = ">h" if is_narrow else ">i"

    def load(self, properties: Mapping[str, str]) -> Answered:
        """The first message, which has no content."""
        return self.exchange(message({"handler": "handle", **properties}, [], self._width))

    def ask(self, *requests: Pairs, content_type: str = "application/json") -> Answered:
        """One call with these requests, each a list of content entries."""
        if len(requests) == 1:
            properties = {"Content-Type": content_type, "handler": "handle", "requestId": "0"}
            return self.exchange(message(properties, requests[0], self._width))
        properties = {f"batch_{n:03d}.Content-Type": content_type for n in range(len(requests))}
        content = [(f"batch_{n:03d}.{key}", body) for n, pairs in enumerate(requests) for key, body in pairs]
        batch = {**properties, "batch_size": str(len(requests)), "handler": "handle"}
        return self.exchange(message(batch, content, self._width))

    def exchange(self, data: bytes) -> Answered:
        """The answer to the message `data`."""
        self._stream.write(data)
        self._stream.flush()
        code, text = self._short(), self._text()
        properties = {self._text(): self._text() for _ in range(self._short())}
        content = []
        for _ in range(self._short()):
            key = self._text()
            content.append((key, self._stream.read(struct.unpack(">i", self._stream.read(4))[0])))
        return Answered(code=code, message=text, properties=properties, content=content)

    def _short(self) -> int:
        return int(struct.unpack(">h", self._stream.read(2))[0])

    def _text(self) -> str:
        length = struct.unpack(self._width, self._stream.read(struct.calcsize(self._width)))[0]
        return self._stream.read(length).decode() if length >= 0 else ""


def message(properties: Mapping[str, str], content: Pairs, width: str) -> bytes:
    """What the Java side writes. `width` is struct's letter of a text's length."""

    def text(value: str) -> bytes:
        return struct.pack(width, len(value.encode())) + value.encode()

    parts = [struct.pack(">h", len(properties))]
    parts += [text(word) for pair in properties.items() for word in pair]
    parts.append(struct.pack(">h", len(content)))
    parts += [text(key) + struct.pack(">i", len(body)) + body for key, body in content]
    return b"".join(parts)


@contextlib.contextmanager
def djl_worker(version: str, model_dir: Path, workdir: Path) -> Iterator[DjlWorker]:
    """The worker of that version on the model folder, started as PyProcess starts it; killed at the end."""
    engine = workdir / f"djl_python-{version}"
    with zipfile.ZipFile(jar(version)) as archive:
        archive.extractall(engine, [name for name in archive.namelist() if name.endswith(".py")])
    name = workdir / f"s{version}"
    argv = [sys.executable, "-u", str(engine / "djl_python_engine.py"), "--sock-type", "unix"]
    argv += ["--sock-name", str(name), "--model-dir", str(model_dir), "--entry-point", "model.py", "--device-id", "-1"]
    env = {
        **os.environ,
        "PYTHONPATH": f"{engine}:{model_dir}",
        "OMP_NUM_THREADS": "1",
        "DYNO_CACHE": str(workdir / CACHE),
    }
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    log = workdir / f"worker-{version}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(argv, cwd=model_dir, env=env, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            with _connected(name, process, log) as link:
                yield DjlWorker(io.BufferedRWPair(link, link), is_narrow=version < "0.26")
        finally:
            process.kill()


@contextlib.contextmanager
def _connected(name: Path, process: subprocess.Popen[bytes], log: Path) -> Iterator[socket.SocketIO]:
    deadline = time.monotonic() + 60.0
    while b"Python engine started." not in log.read_bytes():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(120.0)
        link.connect(str(name))
        yield socket.SocketIO(link, "rw")
