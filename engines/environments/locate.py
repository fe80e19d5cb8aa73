"""Locating the Python environments of engines whose packages do not fit beside the others, and their packages.

An engine names one by `python` (EngineSpec, `python:` in a scenario, `option.pythonExecutable` in serving.properties):
a folder made by venv, an interpreter, or 'auto' for the one that `dyno engine install` made. Without a name, an engine
whose packages are missing here is served from its installed environment. Only its workers run there: they find this
checkout's `engines` by PYTHONPATH, so such an environment holds the engine's packages and nothing of the server.
"""

from __future__ import annotations

import os
from pathlib import Path

from engines.cache_folder import cache_root
from engines.environments.package_list import has_list, package_list
from engines.errors import Unavailable

AUTO = "auto"
OLDEST = (3, 11)
"""requires-python of this distribution: workers run its `engines` package."""
STAMP = "environment.json"
"""Written last into an installed environment: without it, the folder is what an interrupted installation left."""


def environment_folder(engine: str) -> Path:
    """Where `dyno engine install` puts the environment of `engine`; it need not exist. One that stands alone belongs to
    no checkout: its list is part of its name, so that all checkouts with that list share it."""
    is_alone = has_list(engine) and package_list(engine).is_alone
    return cache_root() / "engines" / (f"{engine}-{package_list(engine).digest}" if is_alone else engine)


def installed_python(engine: str) -> Path | None:
    """The interpreter of the engine's installed environment; None when there is none, or only half of one."""
    folder = environment_folder(engine)
    python = folder / "bin" / "python"
    return python if (folder / STAMP).is_file() and python.exists() else None


def interpreter(python: str, engine: str) -> Path:
    """The interpreter that `python` names: a venv folder, an interpreter, or 'auto'. Raises Unavailable."""
    if python == AUTO:
        found = installed_python(engine)
        if found is None and has_list(engine):
            raise Unavailable(f"{engine} has no separate environment here: `dyno engine install {engine}` makes it")
        if found is None:
            raise Unavailable(f"{engine} has no environment that could be installed; leave out python: auto")
        return found
    path = Path(python).expanduser()
    path = path / "bin" / "python" if path.is_dir() else path
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise Unavailable(
            f"python {python!r}: {path} is no interpreter; name a venv folder, an interpreter{or_auto(engine)}"
        )
    return path.absolute()


def or_auto(engine: str) -> str:
    """The end of an error message: the word that names the installed environment, where there can be one."""
    return f", or 'auto' after `dyno engine install {engine}`" if has_list(engine) else ""
