"""`pytest --quick`, which `make check` runs: every test but those marked `heavy`, and a guard that proves the mark.

A test is heavy when it needs more than this Python process: it starts a process, builds or loads the native library, or
loads a model. Under --quick each of these raises, so a test that lacks the mark fails with the line that is wrong.
"""

from __future__ import annotations

import multiprocessing.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
HEAVY_FOLDERS = ("kernels", "conformance", "truth", "end_to_end")
"""Folders of tests/ that are heavy as a whole; elsewhere a test says so itself: `@pytest.mark.heavy`."""
HEAVY_FILE = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.heavy\b", re.MULTILINE)
"""The line of a file whose tests are all heavy: under --quick it is not even imported."""
PROCESS_EVENTS = {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"}
MODEL_LIBRARIES = {"torch", "transformers", "ctranslate2", "onnxruntime", "openvino"}


class Heavy(pytest.fail.Exception):
    """What the guard raises. No `except Exception` of the product swallows it."""


class Guard:
    """Refuses processes, the native library and the libraries that run models, while it is on."""

    def __init__(self) -> None:
        self._is_on = False

    @contextmanager
    def on(self) -> Iterator[None]:
        """Refuse what is done inside the block, if the guard was installed."""
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def install(self) -> None:
        """Listen to the interpreter's audit events, for good."""
        sys.addaudithook(self._refuse)
        started = multiprocessing.util.spawnv_passfds  # starts processes without an audit event

        def spawn(*args: Any) -> int:
            self._refuse("multiprocessing", args)
            return started(*args)

        multiprocessing.util.spawnv_passfds = spawn

    def _refuse(self, event: str, args: tuple[Any, ...]) -> None:
        if self._is_on and (what := _heavy(event, args)):
            raise Heavy(f"{what}: mark the test @pytest.mark.heavy (tests/quick.py), or do without")


def _heavy(event: str, args: tuple[Any, ...]) -> str:
    """What a `make check` may not do in this event, '' for anything else."""
    if event in PROCESS_EVENTS or event == "multiprocessing":
        return f"a test of `make check` starts a process ({event})"
    if event == "ctypes.dlopen" and "libt5k" in str(args[0]):
        return f"a test of `make check` loads the native library ({args[0]})"
    if event == "import" and str(args[0]).partition(".")[0] in MODEL_LIBRARIES:
        return f"a test of `make check` loads a library that runs models ({args[0]})"
    return ""


GUARD = Guard()


def is_heavy_place(path: Path) -> bool:
    """Whether every test at `path` is heavy: by its folder, or because the file says so for all of its tests."""
    if (path.parent == TESTS and path.name in HEAVY_FOLDERS) or any(
        TESTS / name in path.parents for name in HEAVY_FOLDERS
    ):
        return True
    return path.suffix == ".py" and path.is_file() and bool(HEAVY_FILE.search(path.read_text(encoding="utf-8")))


def left_out(items: list[pytest.Item]) -> list[pytest.Item]:
    """The heavy tests of `items`, after those that are heavy by their folder were marked."""
    for item in items:
        if any(TESTS / name in item.path.parents for name in HEAVY_FOLDERS):
            item.add_marker("heavy")
    return [item for item in items if item.get_closest_marker("heavy")]
