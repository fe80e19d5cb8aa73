"""Running the real `dyno` as a user would, and looking at what is left behind."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from engines.processes.child_environment import child_environment
from harness.cli.main import run

ROOT = Path(__file__).parents[2]
DYNO = [sys.executable, "-m", "harness"]
LIMIT_S = 1200
"""A net for what hangs, no claim about speed: four dyno side by side on two cores stay far below."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200", **(extra or {})}


def environment_of(checkout: Path) -> dict[str, str]:
    """Variables for a child that must import another checkout, although an editable install leads to this one."""
    return environment(child_environment(source_root=checkout))


def dyno(*arguments: str, cwd: Path = ROOT, extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The finished command; fails the test only if it outlasts LIMIT_S."""
    env = environment({"PYTHONPATH": str(ROOT), **(extra or {})})
    return subprocess.run([*DYNO, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=LIMIT_S)


def dyno_here(arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in this process: for what starts nothing, where a new Python is most of the time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def start_dyno(arguments: Sequence[str], cwd: Path, log: Path) -> subprocess.Popen[bytes]:
    """A running command in a session of its own, its stderr in `log`."""
    env = environment({"PYTHONPATH": str(ROOT)})
    with log.open("wb") as stderr:
        return subprocess.Popen(
            [*DYNO, *arguments], cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
        )


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
