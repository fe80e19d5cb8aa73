"""Prompts of a data set of the Hugging Face hub: its first rows, read once, and kept as a file of JSON lines.

Read, not run: no hub has been within reach of this code. The library that it calls, `datasets`, has read data sets for
it from a server that stands in for the hub (tests/harness/load/prompts).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.models.cache import build_once
from engines.models.download.redaction import redact
from harness.errors import EnvironmentFault, ScenarioError
from harness.load.child_process import begin_child, end_child
from harness.scenario.hub_prompts import HubPrompts

LIMIT_S = 300.0
"""Until all rows must be there: a stream begins with a file of some hundred MB at most."""

Where = Callable[[str], str]
"""A field of `workload.prompts` -> 'file:line: workload.prompts.field: '."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """The file of the rows, the commit of the data set that they are of, and the file's SHA-256."""

    path: Path
    revision: str
    sha256: str


def read_hub(asked: HubPrompts, cache: Path, where: Where, limit_s: float = LIMIT_S) -> HubFile:
    """The rows that a scenario asks for, from the `cache` folder where it has them: then without network, whatever has
    become of the data set since. Raises ScenarioError: no such data set, revision, subset, split or column;
    EnvironmentFault: no library, no hub within reach, no rows in `limit_s`."""
    question = json.dumps(asked.model_dump(), sort_keys=True)
    key = hashlib.sha256(question.encode()).hexdigest()[:16]
    folder = build_once((cache / "prompts" / key).absolute(), lambda folder: _fill(folder, asked, where, limit_s))
    (path,) = folder.glob("*.jsonl")
    return HubFile(path=path, revision=(folder / _REVISION).read_text().strip(), sha256=_sha256(path))


_REVISION = "revision.txt"


def _fill(folder: Path, asked: HubPrompts, where: Where, limit_s: float) -> None:
    rows = (folder / "rows").absolute()
    answer = _answer(asked, rows, where, limit_s)
    if "wrong" in answer:
        raise ScenarioError(f"{where(answer['wrong'])}{redact(answer['text'])}")
    if "unavailable" in answer:
        raise EnvironmentFault(f"{where('hub')}{asked.hub}: {redact(answer['unavailable'])}")
    # The name carries the content, so that runs with other rows are never taken for runs of one question.
    rows.rename(folder / f"{asked.hub.replace('/', '--')}-{_sha256(rows)[:12]}.jsonl")
    (folder / _REVISION).write_text(f"{answer['revision']}\n")


def _answer(asked: HubPrompts, rows: Path, where: Where, limit_s: float) -> dict[str, Any]:
    with tempfile.TemporaryFile() as log:
        child = begin_child("harness.load.prompts.hub_rows", (), log)
        try:
            question = json.dumps({"asked": asked.model_dump(), "path": str(rows)})
            printed, _ = child.communicate(question.encode(), timeout=limit_s)
            answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
        except subprocess.TimeoutExpired:
            raise EnvironmentFault(
                f"{where('hub')}{asked.hub}: not read within {limit_s:g} s; check the network, or ask for fewer rows"
            ) from None
        except (ValueError, IndexError):
            log.seek(0)
            last = (log.read().decode(errors="replace").split("\n")[-2:] or [""])[0]
            raise EnvironmentFault(
                f"{where('hub')}{asked.hub}: reading it ended with status {child.wait()}: {redact(last):.300}"
            ) from None
        finally:
            end_child(child)
    return answer


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
