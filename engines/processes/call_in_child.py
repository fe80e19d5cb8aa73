"""Calling one function in a child process, so that the memory it takes never burdens an engine.

Model conversion needs torch and transformers; a server that then runs CTranslate2 or ONNX Runtime must not carry their
memory. The child dies with this process, and with an exception (or Ctrl-C) here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from engines import errors
from engines.processes.child_environment import child_environment
from engines.processes.supervisor import dies_with

_MARK = "engines.processes.call_in_child:"


def call_in_child(module: str, function: str, arguments: Sequence[str], python: str | None = None) -> None:
    """Call a function of `module` with string arguments in a child process, of another interpreter if `python` names
    one. The module answers with `answer_call` when it is run as a program.

    An EngineError there is raised here with the same class and words; any other end becomes ModelInvalid with the last
    lines it wrote.
    """
    command = [python or sys.executable, "-m", __name__, module, str(os.getpid()), function, *arguments]
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
    called = f"{module}.{function}"
    if child.returncode == -signal.SIGKILL:
        raise MemoryError(f"{called} was killed, most likely because memory ran out")
    lines = [line.strip() for line in log.splitlines() if line.strip(" ^~")]  # without the carets of a traceback
    tail = " | ".join(lines[-3:])
    raise errors.ModelInvalid(f"{called} {' '.join(arguments[:1])}: ended with code {child.returncode}: {tail}")


def answer_call(*functions: Callable[..., None]) -> None:
    """The child's side: run the one of `functions` that the command line names, then exit."""
    parent, name, *arguments = sys.argv[1:]
    if not dies_with(int(parent)):
        sys.exit(1)
    try:
        {function.__name__: function for function in functions}[name](*arguments)
    except errors.EngineError as error:
        print(_MARK + json.dumps([type(error).__name__, str(error)]))
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    # Before the module, whose libraries may take seconds to load: what the kernel was asked outlives the exec.
    if dies_with(int(sys.argv[2])):
        os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])  # noqa: S606
    sys.exit(1)
