"""The locustfile of a load process, its entry point.

`python -m harness.load.client.locustfile PLAN_JSON WORKDIR PART PARENT_PID` sends one part of a load;
`--check LOCUSTFILE SHA256 PARENT_PID` imports a user's own locustfile and prints the sentence that refuses it, if any.
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
    if arguments[:1] == ["--check"]:
        sys.exit(_check(*arguments[1:]))
    plan_path, workdir, part, parent_pid = arguments
    die_with_parent(int(parent_pid))
    from harness.load.plan import LoadPlan

    plan = LoadPlan.read(Path(plan_path))
    if plan.locustfile:
        from harness.load.user_locustfile.run import run_part  # patches this process, as the other one does
    else:
        from harness.load.client.locust_runner import run_part
    run_part(plan, Path(workdir), int(part))


def _check(path: str, sha256: str, parent_pid: str) -> int:
    die_with_parent(int(parent_pid))
    out = os.dup(1)
    os.dup2(2, 1)  # what the locustfile prints is no answer
    from harness.load.plan import BAD_LOCUSTFILE_STATUS
    from harness.load.user_locustfile.run import BadLocustfile, classes_of

    try:
        classes_of(Path(path), sha256)
    except BadLocustfile as error:
        os.write(out, str(error).encode())
        return BAD_LOCUSTFILE_STATUS
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
