"""The check whether llama.cpp reads a GGUF file's vocabulary: its own server, on a file without weights.

Which kinds of tokenizers a build knows stands nowhere but in its code. It reads the vocabulary before it looks for the
weights, so that a file with one tensor of no use ends it at once, by the vocabulary or by the weights that are missing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from engines.foreign_servers.llamacpp.start import PROCESS
from engines.hosted import HOST
from engines.models.gguf.header import without_weights
from engines.processes.child_environment import child_environment

_TIMEOUT_S = 60.0
_REFUSED = re.compile(r"error loading model vocabulary: (?P<why>[^\n]{1,300})")
"""llama.cpp's own line."""


def why_no_vocabulary(file: Path, python: str, program: str) -> str:
    """Why the llama.cpp in the environment `python`, or else `program`, does not read the file's vocabulary; '' where
    it does, or cannot be asked. Raises ModelInvalid."""
    return _answer(str(file), file.stat().st_mtime_ns, python, program)


@lru_cache(maxsize=32)
def _answer(file: str, _changed: int, python: str, program: str) -> str:
    with tempfile.TemporaryDirectory(prefix="dyno-vocabulary-") as folder:
        path = Path(folder) / "none.gguf"
        path.write_bytes(without_weights(Path(file)))
        if python:
            argv = [python, "-m", PROCESS, HOST, "0", "none"]
            env = {**os.environ, **child_environment(python)}
            return _asked(argv, env, json.dumps({"model.path": str(path), "n_ctx": 64, "warmup": False}))
        argv = [program, "--model", str(path), "--ctx-size", "64", "--host", HOST, "--port", "0", "--no-warmup"]
        return _asked(argv, dict(os.environ), "")


def _asked(argv: Sequence[str], env: dict[str, str], text: str) -> str:
    try:
        done = subprocess.run(
            argv, env=env, input=text, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if found := _REFUSED.search(done.stdout + done.stderr):
        return found["why"].strip()
    return f"it ends by signal {-done.returncode} over it" if done.returncode < 0 else ""
