"""Child processes that a load run starts: each in a process group that is ended whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO


def begin_child(module: str, arguments: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """`python -m module arguments`, connected by pipes; its other output goes to `log`."""
    argv = [sys.executable, "-P", "-m", module, *arguments]  # -P: nothing of the working folder is imported
    return subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=child_env(), process_group=0
    )


def end_child(child: subprocess.Popen[bytes]) -> None:
    """Kill it and what it started, reap it, close its pipes. Fine when it has ended."""
    if child.poll() is None:  # a reaped child's group number may already be somebody else's
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def child_env() -> dict[str, str]:
    """This environment without Locust's own variables, and with this very package importable from any folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    roots = [str(Path(__file__).resolve().parents[2]), env.get("PYTHONPATH", "")]
    return {**env, "PYTHONPATH": os.pathsep.join(root for root in roots if root)}
