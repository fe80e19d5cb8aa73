"""The start script of a foreign server: how it is written, and the server that it starts.

A trial starts the script that it has just written, `dyno serve` and a verification one that was kept: what was measured
is what a user starts. The environment variables PORT, ADDRESS and MODEL_NAME are the only things that differ.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from engines.api import START_FILE
from engines.foreign_servers.starting.openai_server import wait_for_model
from engines.hosted import HOST, STOP_GRACE_S
from engines.processes.server_process import Command, ServerProcess
from engines.processes.temp_folders import fresh_path
from engines.server.listening import listen

READY_TIMEOUT_S = 600.0
"""Seconds in which a script that a user starts must serve: a large model is read from disk."""
PORT, ADDRESS, MODEL_NAME, CONTAINER = "$PORT", "$ADDRESS", "$MODEL_NAME", "$CONTAINER"
"""Words of a command line that the script's caller decides; the last names a docker container."""
_RUNS_CONTAINER = "exec docker run "


def script_text(
    title: str,
    words: Sequence[str],
    usual_port: int,
    env: Mapping[str, str] | None = None,
    standard_input: str = "",
    before: Sequence[str] = (),
) -> str:
    """The script that runs `words` with `env`, on `usual_port` where PORT is not set. PATH and PYTHONPATH in `env` go
    before what is there. The lines `before` run first."""
    lines = [
        "#!/bin/sh",
        *(f"# {line}" for line in title.splitlines()),
        "# PORT, ADDRESS and MODEL_NAME in the environment change where it listens and what it calls its model.",
        f': "${{PORT:={usual_port}}}" "${{ADDRESS:={HOST}}}" "${{MODEL_NAME:=model}}"',
    ]
    for name, value in (env or {}).items():
        more = f'"${{{name}:+:${name}}}"' if value and name in ("PATH", "PYTHONPATH") else ""
        lines.append(f"export {name}={shlex.quote(value)}{more}")
    if CONTAINER in words:
        lines.append(': "${CONTAINER:=dyno-$PORT}"')
    lines += before
    lines.append(f"exec {shell_words(words)}")
    if standard_input:
        lines[-1] += " <<'END_OF_INPUT'"
        lines += [standard_input, "END_OF_INPUT"]
    return "\n".join(lines) + "\n"


def shell_words(words: Sequence[str]) -> str:
    """The words as a shell reads them, with the variables among them."""
    return " ".join(f'"{word}"' if _VARIABLES.fullmatch(word) else shlex.quote(word) for word in words)


_VARIABLES = re.compile(rf"\{PORT}|\{MODEL_NAME}|\{CONTAINER}|\{ADDRESS}(:\{PORT}:\d+)?")


def removal(container: str) -> tuple[str, ...]:
    """The command that removes a docker container, running or not."""
    return ("docker", "rm", "--force", container)


def write_script(workdir: Path, text: str) -> Path:
    """The START_FILE in `workdir`, which holds `text`."""
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / START_FILE
    path.write_text(text, encoding="utf-8")
    return path


def start(script: Path, workdir: Path, *, name: str, port: int, address: str = HOST) -> ServerProcess:
    """The server that `script` starts, its log in `workdir`; whoever calls stops it. Raises LaunchFailed."""
    workdir.mkdir(parents=True, exist_ok=True)
    env = {"PORT": str(port), "ADDRESS": address, "MODEL_NAME": name, "PYTHONUNBUFFERED": "1"}
    argv = ["/bin/sh", str(script.absolute())]
    last: tuple[str, ...] = ()
    if f"\n{_RUNS_CONTAINER}" in script.read_text(encoding="utf-8"):
        env["CONTAINER"] = f"dyno-{secrets.token_hex(6)}"  # ours alone, so that no other one is removed
        last = removal(env["CONTAINER"])
    log = workdir / "server.log"
    return ServerProcess(
        Command(argv=argv, log_path=log, env=env, cwd=workdir, temp_dir=fresh_path("server"), last=last)
    )


@contextmanager
def served_script(script: Path, *, address: str, port: int, name: str) -> Iterator[tuple[ServerProcess, str]]:
    """The server that `script` starts, ready and known to be ours, with its address; its log is server.log there.

    Ends it and whatever it started at the end. Raises PortTaken, LaunchFailed, OutOfMemory, NotReady.
    """
    with listen(address, port) as free:
        port = free.getsockname()[1]
    process = start(script, script.parent, name=name, port=port, address=address)
    try:
        wait_for_model(process, port, (name,), READY_TIMEOUT_S)
        yield process, f"http://{address}:{port}"
    finally:
        process.stop(STOP_GRACE_S)
