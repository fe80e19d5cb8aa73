"""A foreign server in its docker image: the command line that runs it on loopback, and the end of its container.

There was no docker here: it was run with a stand-in for the program alone. Killing the client of a container does not
end it, so its last command removes it by name, also when dyno was killed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from engines.api import EngineSpec
from engines.errors import SpecInvalid, Unavailable
from engines.foreign_servers.starting.start_script import ADDRESS, CONTAINER, PORT

DOCKER = "docker"
MOUNT = "/model"
"""Where a container has the model, read-only."""
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - inside the container, which is published on one address
NOT_YET_RUN = "its docker image was not yet run: there was no docker here"
_ASK_S, _DAEMON_S = 20.0, 10.0


def check_image(engine: str, image: str) -> None:
    """Raises Unavailable without docker or a daemon that answers it, SpecInvalid for a name that would be read as an
    option."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", image):
        raise SpecInvalid(f"{engine}: option image is {image!r}, expected an image such as vllm/vllm-openai:v0.32.0")
    program = shutil.which(DOCKER)
    if program is None:
        raise Unavailable(f"{engine}: docker not found: install it, or leave options.image out")
    if why := _why_silent(program):
        raise Unavailable(f"{engine}: docker's daemon does not answer; start it, or leave options.image out: {why}")


@cache
def _why_silent(program: str) -> str:
    """Why docker's daemon does not answer the program, in docker's words, asked once; '' where it does."""
    try:
        done = subprocess.run([program, "version"], capture_output=True, timeout=_DAEMON_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer to `docker version` within {_DAEMON_S:g} s"
    except OSError as error:
        return f"{program}: {error.strerror}"
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"`docker version` ended with status {done.returncode}"


def in_container(
    image: str, words: Sequence[str], port: int, spec: EngineSpec, env: Mapping[str, str], model: Path | None = None
) -> list[str]:
    """The command line that runs `words` in the image: the first is the program ('': the image's own). `port` is the
    server's in the container; `model` is the folder or file at MOUNT (None: that of `spec`). On GPUs it gets as many as
    there are ranks."""
    gpus = spec.tensor_parallel_degree if spec.device == "cuda" else 0
    model = model or spec.model_dir
    entry = ["--entrypoint", words[0]] if words[0] else []
    devices = ["--gpus", str(gpus), *(["--ipc", "host"] if gpus > 1 else [])] if gpus else []
    return [
        DOCKER, "run", "--rm", "--init", "--name", CONTAINER, "--publish", f"{ADDRESS}:{PORT}:{port}",
        "--mount", f"type=bind,{_field('source', str(model.resolve()))},target={MOUNT},readonly",
        *(word for name, value in env.items() for word in ("--env", f"{name}={value}")),
        *devices, *entry, image, *words[1:],
    ]  # fmt: skip


def _field(name: str, value: str) -> str:
    """One field of --mount, which docker reads as CSV."""
    text = f"{name}={value}"
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",]', text) else text


def digest_of(image: str) -> str:
    """The image with its digest, as docker knows it; the image alone where it does not."""
    argv = [DOCKER, "image", "inspect", "--format", "{{json .RepoDigests}}", image]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_ASK_S, check=True)
        digests = json.loads(done.stdout)
        return f"{image} ({digests[0]})" if digests else image
    except (OSError, ValueError, LookupError, TypeError, subprocess.SubprocessError):
        return image
