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
    root = str(source_root or Path(engines.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, _HOOKS if source_root else "", os.environ.get("PYTHONPATH"))))
    beside = dict.fromkeys(str(Path(each).parent) for each in (python or sys.executable, sys.executable))
    tools = os.pathsep.join((*beside, os.environ.get("PATH", os.defpath)))
    variables = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PATH": tools}
    return {**variables, "DYNO_SOURCE_ROOT": str(source_root)} if source_root else variables
