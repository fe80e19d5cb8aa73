"""Entry of one load process: python -m harness.load.locustfile PLAN_JSON WORKDIR PART PARENT_PID.

The driver starts it; it ends when its parent does (PR_SET_PDEATHSIG, and an end-of-file on stdin).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
"""linux/prctl.h: the signal this process gets when the thread that started it ends."""


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends; leave at once if it already has."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def main(arguments: list[str]) -> None:
    """Run one part of the plan."""
    plan_path, workdir, part, parent_pid = arguments
    die_with_parent(int(parent_pid))
    from harness.load.plan import LoadPlan
    from harness.load.users import run_part  # patches this process

    run_part(LoadPlan.read(Path(plan_path)), Path(workdir), int(part))


if __name__ == "__main__":
    main(sys.argv[1:])
