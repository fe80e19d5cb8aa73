"""A stand-in for docker: a program that records how it is called, and a daemon in the test that owns the containers.

As with the real one, killing the program ends no container: only SIGTERM to `docker run`, which it passes on, and
`docker rm --force` do. A container is llamacpp/llama_server_stand_in.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER = Path(__file__).parents[1] / "llamacpp" / "llama_server_stand_in.py"
PROGRAM = """#!{python}
import json, os, pathlib, signal, sys, time
here = pathlib.Path({here!r})
argv = sys.argv[1:]
if argv == ["version"]:
    sys.exit(0)
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(argv) + "\\n")
if argv[:2] == ["image", "inspect"]:
    print(json.dumps(["stand-in@sha256:1234"]))
    sys.exit(0)
name = argv[argv.index("--name") + 1] if argv[0] == "run" else argv[-1]
def ask(what):
    (here / "asked").with_name(name + "." + what).touch()
if argv[0] == "run":
    signal.signal(signal.SIGTERM, lambda *_: ask("stop"))
    (here / "partial").write_text(json.dumps(argv))
    (here / "partial").rename(here / (name + ".run"))
else:
    ask("stop")
while not (here / (name + ".gone")).exists():
    time.sleep(0.02)
"""


@contextmanager
def docker_stand_in(folder: Path) -> Iterator[Path]:
    """The folder that holds the program `docker`, while its daemon runs; no container is there afterwards."""
    bin_dir, here = folder / "bin", folder / "daemon"
    bin_dir.mkdir()
    here.mkdir()
    program = bin_dir / "docker"
    program.write_text(PROGRAM.format(python=sys.executable, here=str(here)))
    program.chmod(0o755)
    is_over = threading.Event()
    daemon = threading.Thread(target=_serve, args=(here, is_over))
    daemon.start()
    try:
        yield bin_dir
    finally:
        is_over.set()
        daemon.join()


def calls(bin_dir: Path) -> list[list[str]]:
    """How the program was called."""
    return [json.loads(line) for line in (bin_dir.parent / "daemon" / "calls").read_text().splitlines()]


def running(bin_dir: Path) -> list[str]:
    """Names of the containers that have not ended."""
    here = bin_dir.parent / "daemon"
    return [path.stem for path in here.glob("*.run") if not path.with_suffix(".gone").exists()]


def _serve(here: Path, is_over: threading.Event) -> None:
    containers: dict[str, subprocess.Popen[bytes]] = {}
    while not is_over.wait(0.02):
        for path in here.glob("*.run"):
            if path.stem not in containers:
                containers[path.stem] = subprocess.Popen(_command(json.loads(path.read_text())))
        for name, process in containers.items():
            if (here / f"{name}.stop").exists() and process.poll() is None:
                process.terminate()
            if process.poll() is not None:
                (here / f"{name}.gone").touch()
    for process in containers.values():
        process.kill()
        process.wait()


def _command(argv: list[str]) -> list[str]:
    """What a container runs: the words after the image, with its own port and folder as the machine has them."""
    address, port, inside = argv[argv.index("--publish") + 1].split(":")
    source = argv[argv.index("--mount") + 1].split(",")[1].removeprefix("source=")
    words = argv[argv.index("stand-in") + 1 :]
    places = {"/model": source, "0.0.0.0": address, inside: port}
    return [sys.executable, str(SERVER), *(places.get(word, word) for word in words)]
