"""The locustfile of a load process, its entry point.

`python -m harness.load.client.locustfile PLAN_JSON WORKDIR PART PARENT_PID` sends one part of a load;
`--check LOCUSTFILE SHA256 PARENT_PID` imports a user's own locustfile and prints the sentence that refuses it, if any.
The driver starts it; it ends when its parent does (PR_SET_PDEATHSIG, and an end-of-file on stdin).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engines.processes.supervisor import dies_with


def main(arguments: list[str]) -> None:
    """Run one part of the plan."""
    if arguments[:1] == ["--check"]:
        sys.exit(_check(*arguments[1:]))
    plan_path, workdir, part, parent_pid = arguments
    if not dies_with(int(parent_pid)):
        sys.exit(1)
    from harness.load.plan import LoadPlan

    plan = LoadPlan.read(Path(plan_path))
    if plan.locustfile:
        from harness.load.user_locustfile.run import run_part  # patches this process, as the other one does
    else:
        from harness.load.client.locust_runner import run_part
    run_part(plan, Path(workdir), int(part))


def _check(path: str, sha256: str, parent_pid: str) -> int:
    if not dies_with(int(parent_pid)):
        sys.exit(1)
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
