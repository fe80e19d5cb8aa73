"""Run one function in a process of its own, so that what it imports and allocates never weighs on an engine.

Model conversion needs torch and transformers; a server that then runs CTranslate2 or ONNX Runtime must not carry their
memory. The child dies with this process, and with an exception (or Ctrl-C) here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module

from engines import errors
from engines.environments.locate import child_environment
from engines.processes.supervisor import PR_SET_PDEATHSIG, set_process_option

_MARK = "engines.processes.call_in_child:"


def run_isolated(function: str, arguments: Sequence[str], python: str | None = None) -> None:
    """Call `module:function` with string arguments in a child process, of another interpreter if `python` names one.

    An EngineError there is raised here with the same class and words; any other end becomes ModelInvalid with the last
    lines it wrote.
    """
    command = [
        python or sys.executable,
        "-m",
        "engines.processes.call_in_child",
        str(os.getpid()),
        function,
        *arguments,
    ]
    env = {**os.environ, **child_environment(python)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as child:
        try:
            out, log = child.communicate()
        except BaseException:
            child.kill()
            raise
    if child.returncode == 0:
        return
    for line in reversed(out.splitlines()):
        if line.startswith(_MARK):
            name, message = json.loads(line[len(_MARK) :])
            raise getattr(errors, name)(message)
    if child.returncode == -signal.SIGKILL:
        raise MemoryError(f"{function} was killed, most likely because memory ran out")
    said = [line.strip() for line in log.splitlines() if line.strip(" ^~")]  # without the carets of a traceback
    tail = " | ".join(said[-3:])
    raise errors.ModelInvalid(f"{function} {arguments[0]}: ended with code {child.returncode}: {tail}")


def main(arguments: Sequence[str]) -> int:
    """The child: parent's process id, module:function, its arguments."""
    parent, function, *rest = arguments
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return 1  # the parent died before the line above could see it
    module, _, name = function.partition(":")
    try:
        getattr(import_module(module), name)(*rest)
    except errors.EngineError as error:
        print(_MARK + json.dumps([type(error).__name__, str(error)]))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
