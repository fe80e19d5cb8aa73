"""The check of a user's locustfile before a run: hashed, and imported once in a child process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.errors import EnvironmentFault, ScenarioError
from harness.load.child_process import child_env
from harness.load.plan import BAD_LOCUSTFILE_STATUS

CHECK_TIMEOUT_S = 120.0
"""For an import: Locust's own takes a second on an idle core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLocustfile:
    """The user's code that drives the load, and the SHA-256 that the run's record names it by."""

    path: Path
    sha256: str


def checked_locustfile(path: Path) -> OwnLocustfile:
    """The locustfile, which imports and holds User classes. Runs its top level, in a process that ends with this one.

    Raises ScenarioError, the sentence beginning with file:line, when it does not; EnvironmentFault when the process
    died of something else.
    """
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ScenarioError(
            f"{path}:1: cannot be read: {error.strerror}; check the path and its permissions"
        ) from error
    argv = [
        sys.executable,
        "-P",
        "-m",
        "harness.load.client.locustfile",
        "--check",
        str(path),
        sha256,
        str(os.getpid()),
    ]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, env=child_env(), timeout=CHECK_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise ScenarioError(
            f"{path}:1: its import did not end within {CHECK_TIMEOUT_S:g} s; what takes long belongs into on_start"
        ) from None
    if done.returncode == BAD_LOCUSTFILE_STATUS:
        raise ScenarioError(done.stdout.decode("utf-8", "replace"))
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise EnvironmentFault(
            f"{path}: the process that imports it ended with status {done.returncode}: {''.join(words) or 'no words'}"
        )
    return OwnLocustfile(path=path, sha256=sha256)
