"""The real Python worker of DJL Serving, from the jars that DYNO_DJL_WORKER names, driven as its Java side drives it.

A jar is Maven Central's ai.djl.python:python (Apache-2.0); only its .py files are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest

from engines.foreign_servers.djl.messages import Answered, Pairs, batch_message, load_message, read_answer

WHERE = "DYNO_DJL_WORKER"
VERSIONS = ("0.20.0", "0.25.0", "0.34.0")
CACHE = "cache"
"""The worker's cache folder, in its work folder: what it converts would lie there."""


def jar(version: str) -> Path:
    """The jar of that version; skips the test where there is none."""
    folder = os.environ.get(WHERE)
    path = Path(folder or "") / f"python-{version}.jar"
    if not folder or not path.is_file():
        pytest.skip(f"no python-{version}.jar (Maven Central's ai.djl.python:python) in the folder {WHERE}={folder}")
    return path


class DjlWorker:
    """A started worker. `ask` and `load` write a message and read the answer."""

    def __init__(self, stream: io.BufferedRWPair, version: str) -> None:
        self._stream = stream
        self._version = tuple(int(part) for part in version.split("."))

    def load(self, properties: Mapping[str, str]) -> Answered:
        """The first message, which has no content."""
        return self.exchange(load_message(properties, self._version))

    def ask(self, *requests: Pairs, content_type: str = "application/json") -> Answered:
        """One call with these requests, each a list of content entries."""
        return self.exchange(batch_message(requests, content_type, self._version))

    def exchange(self, data: bytes) -> Answered:
        """The answer to the message `data`; also inside a running event loop, as nothing of it waits for one."""
        self._stream.write(data)
        self._stream.flush()
        reading = read_answer(cast(asyncio.StreamReader, self), self._version)
        try:
            reading.send(None)
        except StopIteration as done:
            return cast(Answered, done.value)
        raise AssertionError("the answer was waited for")

    async def readexactly(self, size: int) -> bytes:
        """As of an asyncio.StreamReader."""
        return self._stream.read(size)


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
                yield DjlWorker(io.BufferedRWPair(link, link), version)
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
