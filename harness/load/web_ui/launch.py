"""Launching Locust's web UI beside a live load, for --locust-web-ui.

The UI is a separate process that reads the files the load processes write anyway. Nothing flows back from it, so
neither the schedule nor the users can be changed there. This file never imports Locust.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.errors import EnvironmentFault
from harness.load.child_process import begin_child, end_child
from harness.load.plan import LoadPlan

DEFAULT_PORT = 8089
"""Locust's own."""


class WebUi:
    """The UI on 127.0.0.1:`port` (0: any free one); `url` is known inside the context, which ends the process."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = ""
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with tempfile.TemporaryFile() as log:
            self._child = begin_child("harness.load.web_ui.server", [str(self._port), str(os.getpid())], log)
            assert self._child.stdout is not None
            try:
                word, _, rest = self._child.stdout.readline().decode().strip().partition(" ")
                if word != "ready":
                    log.seek(0)
                    last = b"".join(log.read().strip().splitlines()[-1:]).decode("utf-8", "replace")
                    raise EnvironmentFault(
                        f"--locust-web-ui {self._port}: {rest or f'the web UI did not start: {last}'}; "
                        "name another port, or 0 for any free one"
                    )
            except BaseException:
                self.__exit__(None, None, None)
                raise
        self.url = f"http://127.0.0.1:{rest}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        child, self._child = self._child, None
        if child is not None:
            end_child(child)

    def watch(self, folder: Path, plan: LoadPlan, title: str) -> None:
        """From now on show the load whose files come to `folder`; what was shown before is cleared."""
        if self._child is None or self._child.stdin is None:
            return
        facts = {
            "folder": str(folder.absolute()),
            "endpoint": plan.endpoint_url,
            "title": title,
            "users": 0 if plan.is_open_loop else plan.users,
            "is_own": bool(plan.locustfile),
        }
        with contextlib.suppress(BrokenPipeError):  # a UI that ended takes nothing from the measurement
            self._child.stdin.write(json.dumps(facts).encode() + b"\n")
            self._child.stdin.flush()
