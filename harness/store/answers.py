"""The stored answers of a trial: whole texts, or only the length and a digest of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.store.layout import RunLayout


def answer_lines(outputs: Mapping[str, str], *, keeps_texts: bool) -> str:
    """The lines of a trial's answers, {"id", "text"} or {"id", "sha256", "characters"}."""
    rows = (
        {"id": name, "text": text} if keeps_texts else {"id": name, "sha256": digest(text), "characters": len(text)}
        for name, text in outputs.items()
    )
    return "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)


def digest(text: str) -> str:
    """SHA-256 of an answer, white space at its ends aside: equal for equal answers."""
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest()


def read_answer_rows(root: Path, trial_id: str) -> list[dict[str, Any]]:
    """The lines of a trial's answers. Raises UsageError when absent."""
    path = RunLayout(root).outputs(trial_id)
    if not path.is_file():
        raise UsageError(f"{path}: no answers stored for trial {trial_id!r}; it ended before any came")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def row_digest(row: Mapping[str, Any]) -> str:
    """The digest of a stored answer, whichever way it was stored."""
    return row["sha256"] if "sha256" in row else digest(row["text"])


def read_outputs(root: Path, trial_id: str) -> dict[str, str]:
    """Output id -> text. Raises UsageError when absent, or stored without their texts."""
    rows = read_answer_rows(root, trial_id)
    if any("text" not in row for row in rows):
        raise UsageError(f"{RunLayout(root).outputs(trial_id)}: answers without their texts (keep_texts: false)")
    return {row["id"]: row["text"] for row in rows}
