"""The environment variables with which a child process imports this checkout's `engines`, or another's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import engines

_HOOKS = str(Path(__file__).with_name("checkout"))
"""Holds the sitecustomize.py of processes that serve another checkout."""


def child_environment(python: str | None = None, source_root: Path | None = None) -> dict[str, str]:
    """Variables for a child in the environment of `python` that must find `engines` of `source_root` (default: this
    checkout) first, whatever folder it stands in, and the tools beside its interpreter and ours (ninja, which compiles
    operators: two versions of it would not accept each other's builds)."""
    found = import_variables(python, source_root)
    for name, default in (("PYTHONPATH", ""), ("PATH", os.defpath)):
        found[name] = os.pathsep.join(filter(None, (found[name], os.environ.get(name, default))))
    return found


def import_variables(python: str | None = None, source_root: Path | None = None) -> dict[str, str]:
    """The same without what PYTHONPATH and PATH hold in this process."""
    root = str(source_root or Path(engines.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, _HOOKS if source_root else "")))
    beside = dict.fromkeys(str(Path(each).parent) for each in (python or sys.executable, sys.executable))
    variables = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PATH": os.pathsep.join(beside)}
    return {**variables, "DYNO_SOURCE_ROOT": str(source_root)} if source_root else variables
