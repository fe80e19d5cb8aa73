"""The command line, configuration and environment with which DJL Serving is started on a model folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from engines.errors import Unavailable
from engines.hosted import HOST
from engines.processes.server_process import Command
from engines.serving_properties.java_text import format_properties
from engines.serving_properties.write import MEASURED_WITH

MODEL = "model"
IMAGE_JVM = "-Xmx1g -Xms1g -XX:+ExitOnOutOfMemoryError"
"""JAVA_OPTS of AWS's images from 0.27 to 0.36 (their Dockerfiles), and of every launch here that finds none set."""
READ_THERE = ("SERVING_", "OPTION_", "ARGS_", "SAGEMAKER_")
READ_THERE_TOO = (
    "DJL_CLUSTER_SIZE", "DJL_ENTRY_POINT", "HF_MODEL_ID", "HF_REVISION", "HF_TASK", "MODEL_LOADING_TIMEOUT",
    "PIPELINE_PARALLEL_DEGREE", "PREDICT_TIMEOUT", "PYTHONPATH", "TENSOR_PARALLEL_DEGREE",
)  # fmt: skip
"""Variables that the server, its worker or its start script read, and that would make another model of the folder than
its files describe."""
_SOCKET = "djl_sock.19000"
_LONGEST_SOCKET = 107


def djl_command(program: Path, python: str, folder: Path, workdir: Path, port: int, temp_dir: Path) -> Command:
    """What starts DJL Serving on a model folder, its files and its log in `workdir`.

    The temporary folder is the server's own: the sockets of its workers have fixed names in there, and a second server
    that finds them kills the first one's workers. Only what is installed already is served (PIP_NO_INDEX), so that a
    launch changes no environment. Raises Unavailable where the temporary folder's path is too long for a socket.
    """
    workdir = workdir.absolute()
    if len(os.fsencode(temp_dir / _SOCKET)) > _LONGEST_SOCKET:
        raise Unavailable(f"djl: {temp_dir}: too long a path for the socket of a worker; set TMPDIR to a shorter one")
    (workdir / "models").mkdir(exist_ok=True)
    config = workdir / "config.properties"
    address = f"http://{HOST}:{port}"
    lines = {
        "inference_address": address, "management_address": address, "model_store": str(workdir / "models"),
        "wait_model_loading": "true",
    }  # fmt: skip
    config.write_text(format_properties(lines), encoding="ascii")
    env = {
        **MEASURED_WITH,
        "JAVA_OPTS": f"{jvm_options()} {_quoted(f'-Djava.io.tmpdir={temp_dir}')}",
        "DJL_CACHE_DIR": str(temp_dir / "cache"), "PYTHON_EXECUTABLE": python,
        "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    home = program.resolve().parents[1]
    if not os.access(home, os.W_OK) and "MODEL_SERVER_HOME" not in os.environ:
        env["MODEL_SERVER_HOME"] = str(workdir)  # its logs go there, by default into the release
    argv = [str(program), "-f", str(config), "-m", f"{MODEL}::Python={folder.absolute().as_uri()}/"]
    return Command(
        argv=argv, log_path=workdir / "server.log", env=env, without=kept_back(os.environ), temp_dir=temp_dir,
        cwd=workdir,
    )  # fmt: skip


def jvm_options() -> str:
    """The JVM's options: the user's JAVA_OPTS, else those of AWS's images."""
    return os.environ.get("JAVA_OPTS", "").strip() or IMAGE_JVM


def kept_back(names: Iterable[str]) -> tuple[str, ...]:
    """Which of these variables a launch does not hand on."""
    return tuple(sorted(name for name in names if name.startswith(READ_THERE) or name in READ_THERE_TOO))


def started_with() -> tuple[str, ...]:
    """Notes on what a launch sets beside the folder, and keeps from it."""
    variables = ", ".join(f"{name}={value}" for name, value in MEASURED_WITH.items())
    notes = [f"JVM options: {jvm_options()}", f"{variables}: which no serving.properties can hold"]
    if held := kept_back(os.environ):
        notes.append(f"not handed on, so that the folder alone decides: {', '.join(held)}")
    return tuple(notes)


def _quoted(word: str) -> str:
    """As the start script reads JAVA_OPTS: words, with quotes where one holds a blank."""
    return f'"{word}"' if any(character.isspace() for character in word) else word
